"""InitProducerId (22): an identity for an idempotent or transactional producer (KIP-98, KIP-360).

Every request without a transactional id gets an id that nobody ever had; blocks of them are persisted by `cluster`.
With one, its coordinator says which id and epoch come next, and whoever had it before is fenced. Called through the
registry.
"""

from __future__ import annotations

from collections.abc import Awaitable

from logd.apis.registry import Call, api
from logd.errors import ErrorCode, Refused
from logd.wire.message import Message
from logd.wire.schemas.init_producer_id import InitProducerIdRequest, InitProducerIdResponse

INIT_PRODUCER_ID = 22
FENCED_VERSION = 4
"""Before this version a fenced producer hears INVALID_PRODUCER_EPOCH (KIP-588)."""


def _refused(request: InitProducerIdRequest, version: int, refused: Refused) -> InitProducerIdResponse:
    code = refused.code
    if version < FENCED_VERSION and code is ErrorCode.PRODUCER_FENCED:
        code = ErrorCode.INVALID_PRODUCER_EPOCH
    return InitProducerIdResponse(0, code, -1, -1)


@api(INIT_PRODUCER_ID, refuse=_refused)
def init_producer_id(call: Call, request: InitProducerIdRequest) -> Message | Awaitable[Message]:
    """Versions 0-5. The response has no room for a message. An open transaction is aborted, and then asked again."""
    if (request.producer_id == -1) != (request.producer_epoch == -1):
        raise Refused(ErrorCode.INVALID_REQUEST, "Give a producer id together with its epoch, or neither.")
    if request.transactional_id is None:
        return _begin(call)
    if not request.transactional_id:
        raise Refused(ErrorCode.INVALID_REQUEST, "The transactional id is empty; give one, or null for none.")
    if request.enable2_pc:
        raise Refused(
            ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, "Transactions in two phases are not served (KIP-939)."
        )
    if request.keep_prepared_txn:
        raise Refused(ErrorCode.UNSUPPORTED_VERSION, "A prepared transaction can't be kept (KIP-939).")
    limit_ms = call.services.settings.transaction_max_timeout_ms
    if not 0 < request.transaction_timeout_ms <= limit_ms:
        raise Refused(
            ErrorCode.INVALID_TRANSACTION_TIMEOUT,
            f"The transaction timeout of {request.transaction_timeout_ms} ms is not in 1-{limit_ms}.",
        )
    return call.services.transactions.ask_with_id(request.transactional_id, request, call.version, call.client)


async def _begin(call: Call) -> InitProducerIdResponse:
    return InitProducerIdResponse(0, 0, await call.services.cluster.next_producer_id(), 0)

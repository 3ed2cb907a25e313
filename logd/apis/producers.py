"""InitProducerId (v0-5): a new identity for an idempotent producer (KIP-98, KIP-360).

Every request without a transactional id gets an id that nobody ever had; blocks of them are persisted by `cluster`.
A transactional id is answered NOT_COORDINATOR: there is no transaction coordinator yet, and that is what Kafka 4.3.1
answers while it has none (FindCoordinator says COORDINATOR_NOT_AVAILABLE then). Called through the registry.
"""

from __future__ import annotations

from logd.apis.registry import Call, api
from logd.errors import ErrorCode, Refused
from logd.wire.schemas.init_producer_id import InitProducerIdRequest, InitProducerIdResponse

INIT_PRODUCER_ID = 22
TRANSACTION_TIMEOUT_MS_MAX = 900_000
"""Kafka's default of transaction.max.timeout.ms; a setting when there are transactions."""


def _refused(request: InitProducerIdRequest, version: int, refused: Refused) -> InitProducerIdResponse:
    return InitProducerIdResponse(0, refused.code, -1, -1)


@api(INIT_PRODUCER_ID, refuse=_refused)
async def init_producer_id(call: Call, request: InitProducerIdRequest) -> InitProducerIdResponse:
    """Give a producer id, epoch 0. The response has no room for a message."""
    if (request.producer_id == -1) != (request.producer_epoch == -1):
        raise Refused(ErrorCode.INVALID_REQUEST, "Give a producer id together with its epoch, or neither.")
    if request.transactional_id is None:
        return InitProducerIdResponse(0, 0, await call.services.cluster.next_producer_id(), 0)
    if not request.transactional_id:
        raise Refused(ErrorCode.INVALID_REQUEST, "The transactional id is empty; give one, or null for none.")
    if not 0 < request.transaction_timeout_ms <= TRANSACTION_TIMEOUT_MS_MAX:
        raise Refused(
            ErrorCode.INVALID_TRANSACTION_TIMEOUT,
            f"The transaction timeout of {request.transaction_timeout_ms} ms is not in 1-{TRANSACTION_TIMEOUT_MS_MAX}.",
        )
    raise Refused(ErrorCode.NOT_COORDINATOR, "logd has no transaction coordinator yet.")

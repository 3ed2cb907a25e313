"""InitProducerId: every idempotent producer gets an id of its own."""

from __future__ import annotations

import pytest

from logd.apis import producers
from logd.apis.producers import INIT_PRODUCER_ID
from logd.cluster.store import MemoryStore
from logd.errors import ErrorCode
from logd.wire.schemas.init_producer_id import InitProducerIdRequest
from tests.apis.calls import admin, versions

pytestmark = pytest.mark.trio
assert producers


@pytest.mark.parametrize("version", versions(INIT_PRODUCER_ID))
async def test_ids_are_new_each_time_and_after_a_restart(version: int) -> None:
    """Epoch 0, an id never given before; also to a producer that tells the id it had (KIP-360)."""
    store = MemoryStore()
    given = []
    for _ in range(2):
        node = await admin(store=store)
        for request in (InitProducerIdRequest(None), InitProducerIdRequest(None, 0, 5, 3)):
            answer = await node.ask(INIT_PRODUCER_ID, version, request)
            assert (answer.error_code, answer.producer_epoch) == (0, 0)
            given.append(answer.producer_id)
    assert len(set(given)) == 4
    assert min(given) >= 0


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (InitProducerIdRequest("tx", 0), ErrorCode.INVALID_TRANSACTION_TIMEOUT),
        (InitProducerIdRequest("tx", 900_001), ErrorCode.INVALID_TRANSACTION_TIMEOUT),
        (InitProducerIdRequest("", 1000), ErrorCode.INVALID_REQUEST),
        (InitProducerIdRequest(None, 0, 5, -1), ErrorCode.INVALID_REQUEST),
        (InitProducerIdRequest(None, 0, -1, 5), ErrorCode.INVALID_REQUEST),
    ],
)
async def test_what_gets_no_id(request_: InitProducerIdRequest, code: ErrorCode) -> None:
    """A transaction's timeout has limits, an id is not empty, and half an identity is no identity."""
    answer = await (await admin()).ask(INIT_PRODUCER_ID, 5, request_)
    assert (answer.error_code, answer.producer_id, answer.producer_epoch) == (code, -1, -1)

"""Long requests: decoded by a thread, answered in turns with everybody else's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio

from logd import threads
from logd.apis.dispatch import LARGE_BYTES, Large, start
from logd.apis.turns import TURN_ROWS
from logd.wire.frames import decode_response, request_bytes
from logd.wire.schemas.add_partitions_to_txn import AddPartitionsToTxnRequest, AddPartitionsToTxnTransaction
from logd.wire.schemas.consumer_group_describe import ConsumerGroupDescribeRequest
from logd.wire.schemas.delete_groups import DeleteGroupsRequest
from logd.wire.schemas.describe_configs import DescribeConfigsRequest, DescribeConfigsResource
from logd.wire.schemas.describe_groups import DescribeGroupsRequest
from logd.wire.schemas.describe_producers import DescribeProducersRequest, TopicRequest
from logd.wire.schemas.describe_transactions import DescribeTransactionsRequest
from logd.wire.schemas.find_coordinator import FindCoordinatorRequest
from logd.wire.schemas.write_txn_markers import WritableTxnMarker, WritableTxnMarkerTopic, WriteTxnMarkersRequest
from tests.apis.groups_house import house

NAMES = [f"name-{number:05d}" for number in range(LARGE_BYTES // 10)]
TOPIC = 2

REQUESTS = {
    "FindCoordinator": (10, 4, FindCoordinatorRequest("", 0, NAMES), "coordinators"),
    "DescribeGroups": (15, 5, DescribeGroupsRequest(NAMES), "groups"),
    "DeleteGroups": (42, 2, DeleteGroupsRequest(NAMES), "results"),
    "ConsumerGroupDescribe": (69, 1, ConsumerGroupDescribeRequest(NAMES), "groups"),
    "DescribeConfigs": (
        32,
        4,
        DescribeConfigsRequest([DescribeConfigsResource(TOPIC, name) for name in NAMES]),
        "results",
    ),
    "AddPartitionsToTxn": (
        24,
        5,
        AddPartitionsToTxnRequest([AddPartitionsToTxnTransaction(name, 1, 0, True) for name in NAMES]),
        "results_by_transaction",
    ),
    "DescribeProducers": (
        61,
        0,
        DescribeProducersRequest([TopicRequest(name, [0]) for name in NAMES]),
        "topics",
    ),
    "DescribeTransactions": (65, 0, DescribeTransactionsRequest(NAMES), "transaction_states"),
    "WriteTxnMarkers": (
        27,
        2,
        WriteTxnMarkersRequest(
            [
                WritableTxnMarker(number, 0, True, [WritableTxnMarkerTopic("t", [0])])
                for number in range(LARGE_BYTES // 10)
            ]
        ),
        "markers",
    ),
}


async def at_once(call: Callable[..., Any], *arguments: Any) -> Any:
    """What a thread would do, here: so that turns are counted of the handler alone."""
    return call(*arguments)


async def turns_of_others(ask: Large) -> tuple[int, list[Any]]:
    """How often another task ran while a request was answered, and the answer's buffers."""
    turns = 0
    done = False

    async def other() -> None:
        nonlocal turns
        while not done:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        parts = await ask.parts()
        done = True
    assert parts is not None
    return turns, parts


@pytest.mark.trio
@pytest.mark.parametrize("api", REQUESTS)
async def test_others_run_meanwhile(api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request of many rows gives every other task a turn after each few of them."""
    monkeypatch.setattr(threads, "run", at_once)
    key, version, request, field = REQUESTS[api]
    async with house() as home:
        await home.transactions.ensure_topic()
        frame = memoryview(request_bytes(key, version, 7, "app", request))[4:]
        large = start(frame, home.connection, home.services)
        assert isinstance(large, Large)
        turns, parts = await turns_of_others(large)
    _, answer = decode_response(key, version, memoryview(b"".join(map(bytes, parts)))[4:])
    assert len(getattr(answer, field)) == len(NAMES)
    assert turns >= len(NAMES) // TURN_ROWS - 1

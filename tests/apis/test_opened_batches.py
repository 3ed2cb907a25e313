"""Produce to topics whose rules need the records: small batches are looked at on the loop, others in a thread."""

from __future__ import annotations

import threading

import pytest
import trio

from logd import threads
from logd.apis import produce
from logd.errors import ErrorCode
from logd.testing import Broker
from logd.wire import validation
from logd.wire.batches import BatchHeader, Record, build_batch
from logd.wire.schemas.produce import PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData
from logd.wire.validation import are_plainly_sound
from tests.raw import Peer

SMALL, LARGE = produce.LIGHT_RECORDS_MAX, produce.LIGHT_RECORDS_MAX + 1
HUGE = produce.SOUND_RECORDS_MAX + 1
LZ4 = 3


def records(count: int, *, keyless: int = -1, codec: int = 0) -> bytes:
    keys = [None if number == keyless else b"k%d" % number for number in range(count)]
    return bytes(build_batch([Record(-1, 1000, key, b"v", []) for key in keys], codec=codec))


def ask(broker: Broker, *batches: tuple[str, bytes | None], acks: int = 1) -> ProduceResponse:
    topics = [TopicProduceData(name, partition_data=[PartitionProduceData(0, data)]) for name, data in batches]
    with Peer(broker.bootstrap) as peer:
        answer: ProduceResponse = peer.ask(ProduceRequest(None, acks, 10_000, topics), 9)
        return answer


@pytest.fixture
def broker(logd_broker: Broker) -> Broker:
    for name, configs in (("keys", {"cleanup.policy": "compact"}), ("packed", {"compression.type": "lz4"})):
        logd_broker.create_topic(name, configs=configs)
    logd_broker.create_topic("plain")
    return logd_broker


@pytest.mark.parametrize("codec", [0, LZ4])
@pytest.mark.parametrize("count", [1, SMALL, LARGE, HUGE])
@pytest.mark.parametrize("acks", [1, -1])
def test_a_record_without_a_key(broker: Broker, count: int, codec: int, acks: int) -> None:
    """It is named, and refuses its batch and no other."""
    bad = records(count, keyless=count - 1, codec=codec)
    good = records(count, codec=codec)
    answer = ask(broker, ("plain", bad), ("keys", bad), ("packed", good), acks=acks)
    plain, keys, packed = [topic.partition_responses[0] for topic in answer.responses]
    assert (plain.error_code, packed.error_code) == (0, 0)
    assert keys.error_code == ErrorCode.INVALID_RECORD
    assert [one.batch_index for one in keys.record_errors] == [count - 1]
    assert ask(broker, ("keys", good), acks=acks).responses[0].partition_responses[0].error_code == 0
    assert len(broker.messages("keys")) == count
    assert len(broker.messages("packed")) == count


@pytest.mark.parametrize("acks", [1, -1])
def test_what_is_right_takes_the_short_way(broker: Broker, monkeypatch: pytest.MonkeyPatch, acks: int) -> None:
    """The request is not decoded: what a quick look finds right goes into a compacted topic as into any other."""
    with monkeypatch.context() as patch:
        patch.setattr("logd.apis.dispatch.decode", None)
        for count in (1, LARGE):
            answer = ask(broker, ("plain", records(1)), ("keys", records(count)), acks=acks)
            assert [topic.partition_responses[0].error_code for topic in answer.responses] == [0, 0]
    assert len(broker.messages("keys")) == 1 + LARGE


def test_small_ones_need_no_thread(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is right at first sight is taken at once, and a small batch refused; others are seen to in a thread."""
    begun: list[str] = []

    async def in_thread(work: object, *arguments: object, **how: object) -> object:
        begun.append(getattr(work, "__name__", "?"))
        return work(*arguments) if callable(work) else None

    monkeypatch.setattr(threads, "run", in_thread)
    assert ask(broker, ("keys", records(SMALL))).responses[0].partition_responses[0].base_offset == 0
    assert ask(broker, ("keys", None)).responses[0].partition_responses[0].error_code == ErrorCode.INVALID_RECORD
    assert ask(broker, ("keys", records(SMALL, keyless=0))).responses[0].partition_responses[0].record_errors
    assert ask(broker, ("keys", records(LARGE))).responses[0].partition_responses[0].error_code == 0
    assert "_prepared" not in begun
    assert ask(broker, ("keys", records(LARGE, keyless=0))).responses[0].partition_responses[0].record_errors
    assert begun.count("_prepared") == 1
    for topic, data in (("keys", records(HUGE)), ("keys", records(1, codec=LZ4)), ("packed", records(1))):
        assert ask(broker, (topic, data)).responses[0].partition_responses[0].error_code == 0
    assert begun.count("_prepared") == 4


@pytest.mark.parametrize("count", [SMALL, HUGE - 1])
@pytest.mark.parametrize("keyless", [-1, 0])
def test_many_batches_in_one_request_give_others_their_turn(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, count: int, keyless: int
) -> None:
    """The loop looks at no more records in one go than it may, however many batches they are in, right or wrong."""
    looked, checkpoint = [0], trio.lowlevel.checkpoint

    def look(header: BatchHeader, *arguments: object) -> bool:
        if threading.current_thread().name == "logd":
            looked[-1] += header.count
        return are_plainly_sound(header, *arguments)  # type: ignore[arg-type]

    async def turn() -> None:
        looked.append(0)
        await checkpoint()

    for module in (produce, validation):
        monkeypatch.setattr(module, "are_plainly_sound", look)
    monkeypatch.setattr(trio.lowlevel, "checkpoint", turn)
    times = 5 * produce.LOOKED_AT_MAX // count
    good = [("keys", records(count))] * (times - 1)
    answer = ask(broker, *good, ("keys", records(count, keyless=keyless)))
    codes = [topic.partition_responses[0].error_code for topic in answer.responses]
    assert codes == [0] * (times - 1) + [0 if keyless < 0 else ErrorCode.INVALID_RECORD]
    assert 0 < max(looked) <= 3 * produce.LOOKED_AT_MAX + count  # on the short way, and twice on the long one
    assert len(broker.messages("keys")) == count * (times - (keyless >= 0))


def test_what_is_no_batch(broker: Broker) -> None:
    """Bytes that are too few for a batch, or a count that cannot be, are refused and not looked at on the loop."""
    for data in (b"", b"x" * 60, records(1)[:57] + b"\xff\xff\xff\xff" + records(1)[61:]):
        answer = ask(broker, ("keys", data)).responses[0].partition_responses[0]
        assert answer.error_code in (ErrorCode.CORRUPT_MESSAGE, ErrorCode.INVALID_RECORD)
    assert broker.messages("keys") == []

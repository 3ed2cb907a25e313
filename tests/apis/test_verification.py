"""What Produce asks of the transaction coordinator stays good while the transaction before is waited for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from logd.apis.verification import ADDS_FROM, Question
from logd.errors import ErrorCode, Refused
from logd.log.producers import Producers
from logd.wire.batches import read_header
from tests.log.batches import batch

PRODUCER, EPOCH = 7, 3


def question(producers: Producers, records: bytearray) -> tuple[Question, Any]:
    """A question for one batch to one partition."""
    partition: Any = SimpleNamespace(topic="t", index=0, log=SimpleNamespace(producers=producers))
    data: Any = SimpleNamespace(index=0, records=memoryview(records))
    asked = Question(ADDS_FROM)
    asked.put([(partition, data)])
    return asked, data


def call(producers: Producers, *, waits: bool) -> Any:
    """A call whose coordinator says yes once the marker of the transaction before is in the partition."""

    def add_partitions(*_: Any, before_again: Any, **__: Any) -> dict[tuple[str, int], ErrorCode]:
        producers.end(PRODUCER, EPOCH, 0, 1000, 5)
        if waits:
            before_again()
        return {("t", 0): ErrorCode.NONE}

    return SimpleNamespace(services=SimpleNamespace(transactions=SimpleNamespace(add_partitions=add_partitions)))


@pytest.mark.parametrize("waits", [True, False])
def test_asked_again_after_the_marker(waits: bool) -> None:
    """An answer to what was asked after the marker begins a transaction; one to what was asked before it does not."""
    producers = Producers("t-0")
    records = batch(2, producer=PRODUCER, epoch=EPOCH, sequence=0, transactional=True)
    asked, data = question(producers, records)
    assert asked.ask(call(producers, waits=waits), "x") is None
    verified = asked.answer_for(data)
    if waits:
        assert producers.check_transactional(read_header(records), verified) is None
    else:
        with pytest.raises(Refused) as refused:
            producers.check_transactional(read_header(records), verified)
        assert refused.value.code is ErrorCode.INVALID_TXN_STATE
    asked.close()

"""The reader between what was fetched and the program: nothing is skipped and nothing is given out twice."""

from __future__ import annotations

import pytest

from logd.client.chunks import Chunk
from logd.client.fetching import Arrival, Fetcher
from logd.client.metadata import TopicPartition
from logd.client.reading import Reader
from logd.client.routing import Router
from logd.client.settings import ConsumerSettings
from tests.client.test_consumer import batch, data

pytestmark = pytest.mark.trio

A, B = TopicPartition("t", 0), TopicPartition("t", 1)


class Stage:
    """A reader of two partitions, and fetches that bring what the test says."""

    def __init__(self) -> None:
        self.fetcher = Fetcher(Router("127.0.0.1:1"), ConsumerSettings())
        self.reader = Reader(self.fetcher, endless=True)
        for at in (A, B):
            self.fetcher.add(at, 0)

    def fetched(self, base: int) -> None:
        """One answer, with a batch of two records of each partition from `base` on."""
        arrivals = [
            Arrival(one, one.epoch, Chunk(one.at, data(batch(base, b"x", b"y"))))
            for one in self.fetcher.assigned.values()
        ]
        self.fetcher._send.send_nowait(arrivals)

    async def read(self) -> list[tuple[int, int]]:
        return [(record.partition, record.offset) for record in await self.reader.several()]


async def test_what_came_for_a_paused_partition_is_read_before_what_came_later() -> None:
    """Two answers were there when the partition was paused; it is resumed when the first one has been put by, and the
    second one is at hand already."""
    on = Stage()
    on.fetched(0)
    on.fetched(2)
    on.reader.pause(on.fetcher.assigned[B])
    assert await on.read() == [(0, 0), (0, 1)]
    assert await on.read() == [(0, 2), (0, 3)]
    on.reader.resume(on.fetcher.assigned[B])
    assert await on.read() == [(1, 0), (1, 1)]
    assert await on.read() == [(1, 2), (1, 3)]

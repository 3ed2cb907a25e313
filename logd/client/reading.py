"""Between fetching and the program that reads: which record comes next, what is in its hands, what it has done.

A :class:`Reader` owns the positions. What the program was given last counts as in work until it asks for more, so that
nothing is committed which is not done, and a partition is only given away when nobody works on it. Owned by a consumer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Self

import trio

from logd.client.chunks import BYTES_PER_TAKE
from logd.client.decoding import Received
from logd.client.errors import ClientError
from logd.client.fetching import Arrival, Assigned, Fetcher
from logd.client.metadata import TopicPartition

BYTES_ONE_BY_ONE = 64 << 10
"""About how much is decoded at a time for a program that asks for single records."""
TURNS_PER_CHECKPOINT = 8
"""After as many such portions other tasks have their turn."""


class Reader:
    """Hands out records. ``waits`` is true while the program waits for some."""

    def __init__(self, fetcher: Fetcher, *, endless: bool) -> None:
        self.waits = False
        self.failed: Exception | None = None
        """Why there is nothing more to come."""
        self._endless = endless
        self._fetcher = fetcher
        self._arrivals: deque[Arrival] = deque()
        self._records: list[Received] = []
        self._next = 0
        self._count = 0
        self._first_in_work = 0
        self._of: Assigned | None = None
        self._came_back = trio.Event()
        self._turns = 0
        self._seen = (-1, -1)
        self._seen_s = 0.0

    # -- records

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Received:
        """The next record; the iteration ends when every partition's end is reached."""
        number = self._next
        if number < self._count:
            self._next = number + 1
            return self._records[number]
        if not await self._fill(BYTES_ONE_BY_ONE):
            raise StopAsyncIteration
        self._next = 1
        self._first_in_work = -1
        return self._records[0]

    async def several(self) -> list[Received]:
        """The next records of one partition, as many as came together; none when every end is reached."""
        if self._next >= self._count and not await self._fill(BYTES_PER_TAKE):
            return []
        self._first_in_work, self._next = self._next, self._count
        self._turns += 1
        return self._records[self._first_in_work : self._count]  # a copy: it is the program's

    async def _fill(self, bytes_max: int) -> bool:
        """Wait until ``_records`` has some; False when there will never be any."""
        self.waits = True
        self._turns += 1
        self._records, self._next, self._count, self._of = [], 0, 0, None
        self._came_back.set()
        try:
            if bytes_max == BYTES_PER_TAKE or self._turns % TURNS_PER_CHECKPOINT == 0:
                await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.checkpoint_if_cancelled()
            while not self._decode(bytes_max):
                if self.is_finished:
                    return False
                if self.failed is not None:
                    raise self.failed
                self._arrivals.extend(await self._fetcher.receive())
            return True
        finally:
            self.waits = False

    def _decode(self, bytes_max: int) -> bool:
        while self._arrivals:
            arrival = self._arrivals[0]
            one = arrival.to
            if arrival.is_stale or one.withheld:
                self._arrivals.popleft()
            elif one.paused:
                one.held.append(self._arrivals.popleft())
            elif arrival.chunk is None:
                one.position = arrival.jump
                self._arrivals.popleft()
            else:
                records, one.position = arrival.chunk.take(one.position, one.end, bytes_max)
                if arrival.chunk.is_empty:
                    self._arrivals.popleft()
                if records:
                    self._records, self._next, self._count, self._of = records, 0, len(records), one
                    return True
        return False

    @property
    def is_finished(self) -> bool:
        """Every partition has an end and the reader is there."""
        return not self._endless and all(one.position >= one.end for one in self._fetcher.assigned.values())

    def finish(self) -> None:
        """The program has done all that it was given."""
        self._first_in_work = 0
        if self._next < self._count and self._of is not None:
            self._of.position = self._records[self._next].offset
        self._next = self._count = 0

    def close(self) -> None:
        """Nothing comes any more: whoever waits for records is told so."""
        if self.failed is None:
            self.failed = ClientError("no record", "the consumer is closed", "read within its `async with` block")
        self._fetcher.nudge()

    # -- positions

    def position(self, one: Assigned) -> int:
        """The offset of the next record that the program gets of this partition, or where it will be looked for."""
        if one is self._of and self._next < self._count:
            return self._records[self._next].offset
        return one.position

    def done(self, one: Assigned) -> int:
        """The offset before which the program has done its work: it has asked for more since."""
        if one is not self._of or not self.in_work:
            return self.position(one)
        first = self._next - 1 if self._first_in_work < 0 else self._first_in_work
        return self._records[first].offset

    @property
    def in_work(self) -> bool:
        """The program has records in its hands."""
        return self._of is not None and self._next > 0

    # -- taking partitions away

    def move(self, one: Assigned, offset: int) -> None:
        """Go on at another offset."""
        self._cut(one)
        self._fetcher.move(one, offset)

    def pause(self, one: Assigned) -> None:
        """Hand out no more of it until :meth:`resume`."""
        offset = self.position(one)
        if self._cut(one):  # what was decoded already is fetched again
            self._fetcher.move(one, offset)
        self._fetcher.pause(one)

    def resume(self, one: Assigned) -> None:
        """Hand it out again: first what came meanwhile, for what came after that may be at hand already."""
        self._arrivals.extendleft(reversed(self._fetcher.resume(one)))
        if self.waits:
            self._fetcher.nudge()

    def withhold(self, partitions: Iterable[TopicPartition]) -> None:
        """Hand out no more of these; they are about to be dropped. Their positions stay true."""
        for at in partitions:
            one = self._fetcher.assigned[at]
            offset = self.position(one)
            one.withheld = True
            self._cut(one)
            one.position = offset

    async def stand_still(self) -> None:
        """Wait until the program has nothing in its hands that is withheld."""
        while self.in_work and self._of is not None and self._of.withheld:
            await self._return()

    async def returned(self) -> None:
        """Wait until the program asks for records."""
        while not self.waits:
            await self._return()

    async def _return(self) -> None:
        if self._came_back.is_set():
            self._came_back = trio.Event()
        await self._came_back.wait()

    def _cut(self, one: Assigned) -> bool:
        """Give out none of the decoded records that are left of this partition; whether there were any."""
        if one is not self._of or self._next >= self._count:
            return False
        self._count = self._next
        return True

    def idle_s(self, now_s: float) -> float:
        """How long the program has not asked for anything."""
        seen = (self._turns, self._next)
        if self.waits or seen != self._seen:
            self._seen, self._seen_s = seen, now_s
        return now_s - self._seen_s

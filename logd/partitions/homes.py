"""The data directories of one node: which of them holds which partition, and where a new one goes.

Each has a disk of its own, so that one may fail while the others serve: then its partitions are offline and nothing
new is put there. :class:`~logd.partitions.table.PartitionTable` asks; what is in a partition's directory is the log's.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from logd.errors import StorageFailed
from logd.log.disk import PASSING, RealDisk
from logd.log.reserve import Room

logger = logging.getLogger("logd.partitions")

SPARE_DESCRIPTORS = 4


class Home:
    """One data directory. ``failure`` says why it cannot be used, "" when it can; ``unseen`` why it could not be
    looked into yet, which is no fault of its own."""

    def __init__(self, path: Path, free_bytes_min: int, failure: str) -> None:
        self.path = path
        self.room = Room(str(path), 0 if failure else free_bytes_min)
        self.disk = RealDisk(spare_descriptors=SPARE_DESCRIPTORS, room=self.room)
        self.failure = failure
        self.unseen: StorageFailed | None = None
        self.names: set[str] = set()

    def look(self) -> None:
        """Find out which directories are in it."""
        self.unseen = None
        try:
            self.names = {entry.name for entry in self.disk.entries(str(self.path)) if entry.is_directory}
        except StorageFailed as failure:
            if failure.cause.errno in PASSING:
                self.unseen = failure
            else:
                self.fail(str(failure))

    def fail(self, why: str) -> None:
        """Put nothing new here any more."""
        if not self.failure:
            logger.error("the data directory %s fails, new partitions go elsewhere if they can: %s", self.path, why)
            self.failure = why


class Homes:
    """All data directories; the first one holds the metadata too, and must work."""

    def __init__(self, first: Path, others: Mapping[Path, str], free_bytes_min: int) -> None:
        """``others``: each with what is wrong with it, "" for nothing."""
        self._homes = [Home(first, free_bytes_min, "")]
        self._homes += [Home(path, free_bytes_min, failure) for path, failure in others.items()]
        for home in self:
            if not home.failure:
                home.look()

    def __iter__(self) -> Iterator[Home]:
        return iter(self._homes)

    @property
    def first(self) -> Home:
        """The one with the metadata."""
        return self._homes[0]

    def holding(self, name: str) -> list[Home]:
        """Those that have a directory of a partition's name, as far as they can be read.

        More than one where the name was used again while one was away, or where a partition could not be made in one.
        """
        for home in self._homes:
            if home.unseen is not None:
                home.look()
        return [home for home in self._homes if name in home.names]

    def demand_seen(self) -> None:
        """For what was not found in any of them.

        :raises StorageFailed: one that may have it cannot be looked into now.
        """
        for home in self._homes:
            if (unseen := home.unseen) is not None:
                raise unseen

    def choices(self) -> Sequence[Home]:
        """Where a new partition may go: the emptiest first, and when all fail the first one."""
        usable = [home for home in self._homes if not home.failure]
        return sorted(usable, key=lambda home: len(home.names)) or [self.first]

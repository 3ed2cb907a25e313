"""All partitions that this node hosts, by name and by topic id.

It follows the metadata image: opens the logs of new partitions, applies new configs and epochs, takes deleted ones out
of use. Handlers look partitions up here. File work that may take long goes to a worker thread.
"""

from __future__ import annotations

import errno
import logging
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import trio

from logd import threads
from logd.errors import Corrupt, DecodeError, ErrorCode, Refused, StorageFailed
from logd.log.batch_file import LOG_SUFFIX
from logd.log.disk import DISK_FULL, PASSING, RealDisk, occupy
from logd.log.log import Log, LogConfig
from logd.log.recovery import empty
from logd.log.state import META_NAME, State, parse_meta
from logd.partitions.homes import Home, Homes
from logd.partitions.known import Known
from logd.partitions.partition import Partition

if TYPE_CHECKING:
    from logd.clock import Clock
    from logd.cluster.image import Image, PartitionState, Topic
    from logd.config import TopicConfig
    from logd.partitions.flusher import Flusher

logger = logging.getLogger("logd.partitions")

DELETED_SUFFIX = "-delete"
"""A directory whose name ends so belongs to a deleted topic and waits for its removal, as in Kafka."""

DELETED_NAME = re.compile(r".*\.[0-9a-f]{32}" + DELETED_SUFFIX)

STRAY_SUFFIX = "-stray"
"""A directory whose name ends so belongs to a topic that the metadata does not know; it is never removed."""

SHORTER = "records that were readable before the flush failed are gone: restart logd to go on without them"
VANISHED = (
    "the partition's directory has vanished with all its records, or is in a data directory that failed: put it back, "
    "or make an empty one of that name to begin the partition anew, and restart logd"
)
TWICE = "the partition has records in {} too: take away the directory that is older, or a copy, and restart logd"

SETTLE_S = 2.0
"""How long a start waits for the flush of what recovery found."""

THREADS_MAX = 16
"""Logs that are made or closed side by side."""

OPENED_AT_ONCE = 32
"""New partitions whose files one thread makes before it is another's turn."""

DISCARDED_AT_ONCE = 32
"""Deleted partitions whose files one thread removes before it is another's turn."""

IN_THE_WAY = (errno.ENOTDIR, errno.EEXIST, errno.ELOOP)
"""What says that something else has a partition's name, and nothing of the data directory."""

T = TypeVar("T")
ConfigOf = Callable[[str], "TopicConfig"]


def spread(topic_id: bytes, index: int) -> float:
    """A share from 0 to 1 that differs between partitions and is always the same for one of them."""
    return zlib.crc32(index.to_bytes(4, "big"), zlib.crc32(topic_id)) / (1 << 32)


def log_config(config: TopicConfig, producer_id_expiration_ms: int, share: float = 0.0) -> LogConfig:
    """What the log needs to know of a topic's settings; `share` of segment.jitter.ms is taken off segment.ms."""
    jitter_ms = int(min(config.segment_jitter_ms, config.segment_ms) * share)
    compacted = "compact" in config.cleanup_policy
    segment_ms = max(config.segment_ms - jitter_ms, 1)
    return LogConfig(
        segment_bytes=config.segment_bytes,
        segment_ms=min(segment_ms, config.max_compaction_lag_ms) if compacted else segment_ms,
        index_interval_bytes=config.index_interval_bytes,
        segment_index_bytes=config.segment_index_bytes,
        retention_ms=config.retention_ms,
        retention_bytes=config.retention_bytes,
        flush_messages=config.flush_messages,
        flush_ms=config.flush_ms,
        max_message_bytes=config.max_message_bytes,
        timestamp_type=config.message_timestamp_type,
        timestamp_before_max_ms=config.message_timestamp_before_max_ms,
        timestamp_after_max_ms=config.message_timestamp_after_max_ms,
        file_delete_delay_ms=config.file_delete_delay_ms,
        producer_id_expiration_ms=producer_id_expiration_ms,
        preallocate=config.preallocate,
        compacted=compacted,
    )


class PartitionTable:
    """The partitions of one node."""

    def __init__(
        self,
        directory: Path,
        node_id: int,
        *,
        durable: bool,
        clean: bool,
        config_of: ConfigOf,
        producer_id_expiration_ms: int,
        flusher: Flusher,
        clock: Clock,
        free_bytes_min: int = 0,
        others: Mapping[Path, str] | None = None,
    ) -> None:
        """``others``: data directories beside the first, each with what is wrong with it, "" for nothing."""
        self.homes = Homes(directory, others or {}, free_bytes_min)
        self.some_open_batches = False
        """Whether any topic's rules need the records of its batches; Produce looks closer only then."""
        self._node_id = node_id
        self._durable = durable
        self._clean = clean
        self._config_of = config_of
        self._producer_id_expiration_ms = producer_id_expiration_ms
        self._flusher = flusher
        self._clock = clock
        self._disk = self.homes.first.disk
        self._known = Known(self._disk, str(directory))
        self._by_name: dict[tuple[str, int], Partition] = {}
        self._by_id: dict[tuple[bytes, int], Partition] = {}
        self._ids: set[bytes] = set()
        self._coming: dict[str | bytes, Topic] = {}
        """Topics that clients know of already, some of whose logs are being opened; by name and by id."""
        self._missing: dict[Partition, tuple[Topic, PartitionState]] = {}
        self.opened: list[Callable[[], None]] = []
        """Called when a partition is there that could not be opened before."""

    def __iter__(self) -> Iterator[Partition]:
        return iter(list(self._by_name.values()))

    def __len__(self) -> int:
        return len(self._by_name)

    def get(self, topic: str, index: int) -> Partition | None:
        """The partition, or None when this node does not host it."""
        return self._by_name.get((topic, index))

    def get_by_id(self, topic_id: bytes, index: int) -> Partition | None:
        """The partition, by the 16 bytes of its topic's id."""
        return self._by_id.get((topic_id, index))

    def knows_id(self, topic_id: bytes) -> bool:
        """Whether a topic with this id has any partition here, or is about to."""
        return topic_id in self._ids or topic_id in self._coming

    def find(self, topic: str, index: int) -> Partition:
        """The partition; raises what :meth:`absent` says when it is not here."""
        partition = self._by_name.get((topic, index))
        if partition is None:
            raise self.absent(topic, index)
        return partition

    def absent(self, topic: str | bytes, index: int) -> Refused:
        """Why a partition, given by the name or the id of its topic, is not here: UNKNOWN_TOPIC_OR_PARTITION.

        NOT_LEADER_OR_FOLLOWER while its log is being opened: Metadata tells of it, and who hears that it is unknown may
        give up.
        """
        coming = self._coming.get(topic)
        if coming is not None and 0 <= index < len(coming.partitions):
            return Refused(
                ErrorCode.NOT_LEADER_OR_FOLLOWER, f"partition {coming.name}-{index} is being opened: try again"
            )
        name = topic if isinstance(topic, str) else topic.hex()
        return Refused(
            ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"there is no partition {name}-{index}: create the topic first"
        )

    async def open_all(self, image: Image, *, registered: bool = True) -> None:
        """Open the logs of all partitions at start, before anybody is served; several wait for the disk side by side.

        One that cannot be opened is offline, and refuses with KAFKA_STORAGE_ERROR; the others serve.

        :param registered: whether this start has begun new leader epochs, of which no batch can be yet.
        """
        hosted = [
            partial(self._open, topic, state, again=not registered)
            for topic in image.topics.values()
            for state in topic.partitions
            if self._node_id in state.replicas
        ]
        for partition in await in_threads(hosted):
            self._admit(partition)
        self._clean = True

    async def settled(self) -> None:
        """Wait until what recovery found is flushed: what was readable before the start is readable when it ends."""
        with trio.move_on_after(SETTLE_S):
            for partition in self:
                with suppress(Refused):
                    await partition.committed.wait(partition.log.end_offset)

    async def follow(self, old: Image, new: Image) -> None:
        """Bring the table from one image to the next; listener of the cluster."""
        if old.topics is not new.topics:
            changed = [topic for name, topic in new.topics.items() if topic is not old.topics.get(name)]
            self._coming = {key: topic for topic in changed for key in (topic.name, topic.id)}
            gone: list[Partition] = []
            for name, topic in old.topics.items():
                current = new.topics.get(name)
                if current is None or current.id != topic.id:
                    gone += self._take_out(topic)
            for partition in gone:
                await partition.left_alone()
            await in_threads([partial(self._discard, some) for some in batched(gone, DISCARDED_AT_ONCE)])
            added = [missing for topic in changed for missing in self._update(topic)]
            size = max(1, min(OPENED_AT_ONCE, len(added) // THREADS_MAX))
            for opened in await in_threads([partial(_one_by_one, some) for some in batched(added, size)]):
                for partition in opened:
                    self._admit(partition)
            self._coming = {}
        if (
            old.topics is not new.topics
            or old.broker_configs is not new.broker_configs
            or old.default_broker_configs is not new.default_broker_configs
        ):
            self._configure()

    def _update(self, topic: Topic) -> Iterator[Callable[[], Partition]]:
        """Apply new epochs; give what opens the partitions that are not here yet."""
        for state in topic.partitions:
            known = self._by_id.get((topic.id, state.index))
            if known is not None:
                known.leader_epoch = state.leader_epoch
            elif self._node_id in state.replicas:
                yield partial(self._open, topic, state)

    def _configure(self) -> None:
        self.some_open_batches = False
        for partition in self._by_name.values():
            config = self._config_of(partition.topic)
            if config is not partition.config:
                partition.config = config
                share = spread(partition.topic_id, partition.index)
                partition.log.config = log_config(config, self._producer_id_expiration_ms, share)
            self.some_open_batches = self.some_open_batches or (partition.opens_batches and not partition.internal)

    def _open(self, topic: Topic, state: PartitionState, *, again: bool = False) -> Partition:
        """Open a log, or begin it; `again` if this leader may have written to it before."""
        newest_epoch = None if state.leader != self._node_id else state.leader_epoch - (not again)
        config = self._config_of(topic.name)
        settings = log_config(config, self._producer_id_expiration_ms, spread(topic.id, state.index))
        name = f"{topic.name}-{state.index}"
        path = str(self.homes.first.path / name)
        failure: StorageFailed | Corrupt | None = None
        try:
            home = self._home_of(name, topic.id)
            path = str((home or self.homes.first).path / name)
            log = self._log(home, name, topic.id, state.index, settings, newest_epoch)
        except (StorageFailed, Corrupt) as why:
            failure = why
            log = Log(self._disk, path, settings, empty(self._disk, path, topic.id, State(), self._clock.now_ms()))
        partition = Partition(
            topic.name,
            state.index,
            topic.id,
            log,
            leader_epoch=state.leader_epoch,
            config=config,
            internal=topic.internal,
            durable=self._durable,
            flusher=self._flusher,
            clock=self._clock,
        )
        if failure is not None:
            self._leave_offline(partition, failure)
            if isinstance(failure, StorageFailed) and failure.cause.errno in PASSING:
                self._missing[partition] = (topic, state)
        return partition

    def _leave_offline(self, partition: Partition, why: StorageFailed | Corrupt) -> None:
        """What cannot be opened is refused, never begun anew: its files stay as they are."""
        failure = why if isinstance(why, StorageFailed) else StorageFailed(why.path, OSError(errno.EIO, str(why)))
        partition.log.fail(failure)
        logger.error("partition %r is offline, its log cannot be opened: %s", partition, why)
        partition.stop(
            Refused(
                ErrorCode.KAFKA_STORAGE_ERROR,
                f"partition {partition!r} is offline, its log cannot be opened ({why}); repair its files or the disk",
            )
        )

    async def keep_room(self) -> None:
        """Fill the reserve again that was given away when the disk was full."""
        for home in self.homes:
            if home.room.wants():
                await threads.run(home.room.hold, occupy)

    def put_aside(self, image: Image) -> None:
        """See which partitions went offline since a full disk let a flush fail, or for want of file descriptors.

        They may be opened anew now.

        The flush is not tried again: the log is closed and recovered, as at a start, and what no disk holds for sure is
        written once more. Whoever uses the partition is told that it is away first.
        """
        found = False
        for partition in self:
            failure = partition.log.failure
            if partition.failure is None or failure is None or failure.cause.errno not in PASSING:
                continue
            if partition in self._missing or not partition.is_alone:
                continue
            topic = image.topics.get(partition.topic)
            home = next((one for one in self.homes if partition.log.path == f"{one.path}/{partition!r}"), None)
            if topic is None or topic.id != partition.topic_id or home is None:
                continue
            if failure.cause.errno in DISK_FULL and not home.room.ample():
                continue
            self._missing[partition] = (topic, topic.partitions[partition.index])
            found = True
        for tell in self.opened if found else ():
            tell()

    async def open_missing(self) -> None:
        """Try those again that could not be opened, or kept, since the disk was full or no file descriptor was left."""
        for offline, (topic, state) in list(self._missing.items()):
            del self._missing[offline]
            if self._by_id.get((topic.id, state.index)) is not offline:
                continue
            found = await offline.in_thread(partial(self._open_anew, offline, topic, state))
            if self._by_id.get((topic.id, state.index)) is not offline:
                continue
            if found.failure is None and found.log.end_offset < offline.high_watermark:
                self._leave_offline(found, Corrupt(found.log.path, 0, SHORTER))
                found.log.close(clean=False)
            if found.failure is not None:
                if self._missing.pop(found, None) is not None:
                    self._missing[offline] = (topic, state)
                else:
                    self._admit(found)  # damaged: it says so, and is not tried again
                continue
            logger.info("partition %r is there again", found)
            self._admit(found)
            for tell in self.opened:
                tell()

    def _open_anew(self, offline: Partition, topic: Topic, state: PartitionState) -> Partition:
        offline.log.close(clean=False)
        if offline.log.unmarked:  # opened without that word it would take for flushed what is not
            self._missing[offline] = topic, state
            return offline
        return self._open(topic, state, again=True)

    def _home_of(self, name: str, topic_id: bytes) -> Home | None:
        """The data directory that holds this very partition, or else one in which an empty directory has its name.

        :raises Corrupt: two hold records of it, and nobody knows which of them count.
        :raises StorageFailed: none holds it, as far as they can be looked into now.
        """
        owners = [(home, _owner(home.disk, f"{home.path}/{name}")) for home in self.homes.holding(name)]
        found = [home for home, owner in owners if owner == topic_id]
        if len(found) > 1:
            found = [home for home in found if _has_segments(home.disk, f"{home.path}/{name}")] or found[:1]
        if len(found) > 1:
            raise Corrupt(f"{found[1].path}/{name}", 0, TWICE.format(found[0].path))
        if not found:
            self.homes.demand_seen()
            found = [home for home, owner in owners if owner is None]
        return found[0] if found else None

    def _log(
        self,
        held_by: Home | None,
        name: str,
        topic_id: bytes,
        index: int,
        settings: LogConfig,
        newest_epoch: int | None,
    ) -> Log:
        """Open the log where it is, or begin it where there is room: a data directory that fails is passed over."""
        if held_by is not None:
            return self._open_log(held_by, f"{held_by.path}/{name}", topic_id, settings, newest_epoch)
        if (topic_id, index) in self._known:
            raise Corrupt(f"{self.homes.first.path}/{name}", 0, VANISHED)
        choices = self.homes.choices()
        for number, home in enumerate(choices, 1):
            home.names.add(name)  # before others, made side by side, look which is the emptiest
            try:
                return self._open_log(home, f"{home.path}/{name}", topic_id, settings, newest_epoch)
            except StorageFailed as failure:
                home.names.discard(name)
                if failure.cause.errno not in IN_THE_WAY:
                    _unmake(home.disk, f"{home.path}/{name}", topic_id)
                if failure.cause.errno not in (*PASSING, *IN_THE_WAY):
                    home.fail(str(failure))
                if number == len(choices):
                    raise
        raise AssertionError("there is always a choice")

    def _open_log(self, home: Home, path: str, topic_id: bytes, settings: LogConfig, newest_epoch: int | None) -> Log:
        """Open the log of this very topic, or begin it; one of another topic of that name is put aside."""
        now_ms = self._clock.now_ms()
        disk = home.disk
        found = _owner(disk, path)
        if found == topic_id:
            return Log.open(path, settings, clean=self._clean, now_ms=now_ms, disk=disk, newest_epoch=newest_epoch)
        if found is not None:
            aside = f"{path}.{found.hex()}{STRAY_SUFFIX}"
            logger.warning("%s holds a topic that the metadata does not know: it is kept as %s", path, aside)
            disk.rename(path, aside)
        return Log.create(path, topic_id, settings, now_ms=now_ms, disk=disk)

    async def remove_leftovers(self) -> None:
        """Remove what a crash left of deleted topics; name what belongs to no topic."""
        await threads.run(self._remove_leftovers)

    def _remove_leftovers(self) -> None:
        for home in self.homes:
            try:
                found = home.disk.entries(str(home.path)) if not home.failure else []
            except StorageFailed as failure:
                logger.error("what is left of deleted topics can't be looked for: %s", failure)
                continue
            for entry in found:
                if entry.is_directory and DELETED_NAME.fullmatch(entry.name):
                    try:
                        remove_directory(home.disk, str(home.path / entry.name))
                    except StorageFailed as failure:
                        logger.error("the files of a deleted topic can't be removed: %s", failure)

    def _admit(self, partition: Partition) -> None:
        self._by_name[partition.topic, partition.index] = partition
        self._by_id[partition.topic_id, partition.index] = partition
        self._ids.add(partition.topic_id)
        if partition.failure is None:
            partition.begin()
        if partition.opens_batches and not partition.internal:
            self.some_open_batches = True

    def _take_out(self, topic: Topic) -> list[Partition]:
        gone = []
        refused = Refused(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"topic {topic.name} has been deleted")
        self._ids.discard(topic.id)
        for state in topic.partitions:
            partition = self._by_id.pop((topic.id, state.index), None)
            if partition is None:
                continue
            self._by_name.pop((topic.name, state.index), None)
            partition.stop(refused)
            gone.append(partition)
        return gone

    def _discard(self, partitions: Sequence[Partition]) -> None:
        """Close and remove the logs of deleted topics."""
        for partition in partitions:
            try:
                partition.log.close(clean=False)
                aside = f"{partition.log.path}.{partition.topic_id.hex()}{DELETED_SUFFIX}"
                self._disk.rename(partition.log.path, aside)
                for home in self.homes:
                    if partition.log.path == f"{home.path}/{partition!r}":
                        home.names.discard(repr(partition))
                remove_directory(self._disk, aside)
            except StorageFailed as failure:
                logger.error("the files of deleted %r can't be removed: %s", partition, failure)

    async def remember_known(self) -> None:
        """Write down which partitions there are, so that one that vanishes is told."""
        places = self._known_places()
        if self._known.differs(places):
            try:
                await threads.run(self._known.write, places)
            except StorageFailed as failure:
                logger.warning("which partitions there are cannot be written down: %s", failure)

    def _known_places(self) -> frozenset[tuple[bytes, int]]:
        """Those that are there, and those that vanished: they stay known until their topic is deleted."""
        return frozenset(
            place for place, partition in self._by_id.items() if partition.failure is None or place in self._known
        )

    async def close(self) -> bool:
        """Flush and close every log. What fails is recovered at the next start.

        :returns: whether all went well, so that the next start may trust what it finds.
        """
        await self.remember_known()
        return all(await in_threads([partial(self._close, partition) for partition in self]))

    def _close(self, partition: Partition) -> bool:
        clean = partition.failure is None
        try:
            partition.log.close(clean=clean)
        except (StorageFailed, Corrupt) as failure:
            logger.error("partition %r was not closed well: %s", partition, failure)
            return False
        return clean


def _owner(disk: RealDisk, path: str) -> bytes | None:
    """The id of the topic whose partition a directory holds; None where nothing says so. Raises Corrupt."""
    meta = disk.load(f"{path}/{META_NAME}")
    try:
        return None if meta is None else parse_meta(meta)
    except DecodeError as cause:
        raise Corrupt(f"{path}/{META_NAME}", 0, str(cause)) from cause


def _unmake(disk: RealDisk, path: str, topic_id: bytes) -> None:
    """Take away what is there of a log that could not be made: a later start must not take it for the partition."""
    with suppress(StorageFailed, Corrupt):
        if _owner(disk, path) in (None, topic_id) and not _has_segments(disk, path):
            disk.remove(f"{path}/{META_NAME}")
            disk.remove(path)


def _has_segments(disk: RealDisk, path: str) -> bool:
    return any(entry.name.endswith(LOG_SUFFIX) for entry in disk.entries(path))


def _one_by_one(jobs: Sequence[Callable[[], T]]) -> list[T]:
    """Their results; for a thread that costs more to start than what it does."""
    return [job() for job in jobs]


async def in_threads(jobs: Sequence[Callable[[], T]]) -> list[T]:
    """Run jobs that wait for the disk side by side, so that the file system can join their flushes."""
    results: dict[int, T] = {}
    limiter = trio.CapacityLimiter(THREADS_MAX)

    async def run(number: int, job: Callable[[], T]) -> None:
        results[number] = await threads.run(job, limiter=limiter)

    async with trio.open_nursery() as nursery:
        for number, job in enumerate(jobs):
            nursery.start_soon(run, number, job)
    return [results[number] for number in range(len(jobs))]


def batched(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """The items in order, so many at a time."""
    return (items[begin : begin + size] for begin in range(0, len(items), size))


def remove_directory(disk: RealDisk, path: str) -> None:
    """Remove a directory of plain files."""
    for entry in disk.entries(path):
        disk.remove(f"{path}/{entry.name}")
    disk.remove(path)

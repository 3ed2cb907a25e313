"""Committed offsets of groups: PURE hard state, changed only by replaying records.

Owns what every group has committed, and what transactions have committed but not yet finished. :mod:`groups` asks it
for the answers and the records of OffsetCommit, OffsetFetch and OffsetDelete, after it has judged whether the caller
may. It never knows of members or sessions. Topics are named by name here; ids ride along and are told back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec

from logd.coordinators.effects import Record
from logd.coordinators.events import PlainOffset
from logd.coordinators.records import OFFSET_COMMIT_VALUE_VERSION, OFFSET_COMMIT_VALUE_VERSION_EXPIRING
from logd.errors import ErrorCode
from logd.wire.message import ZERO_UUID
from logd.wire.schemas.group_records import OffsetCommitKey, OffsetCommitValue
from logd.wire.schemas.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitResponse,
    OffsetCommitResponsePartition,
    OffsetCommitResponseTopic,
)
from logd.wire.schemas.offset_delete import (
    OffsetDeleteRequest,
    OffsetDeleteResponse,
    OffsetDeleteResponsePartition,
    OffsetDeleteResponseTopic,
)
from logd.wire.schemas.offset_fetch import (
    OffsetFetchRequestGroup,
    OffsetFetchResponseGroup,
    OffsetFetchResponsePartitions,
    OffsetFetchResponseTopics,
)

Producer = tuple[int, int]
"""(producer id, producer epoch)."""

LATEST_MS = 2**63 - 1
NO_RETENTION = -1


class Committed(msgspec.Struct, frozen=True, gc=False):
    """One committed offset.

    :param written_at: offset of its record in the coordinator's log; decides between a plain commit and one of a
        transaction that ended later.
    """

    offset: int
    leader_epoch: int
    metadata: str
    committed_ms: int
    expires_ms: int
    topic_id: bytes
    written_at: int


class Repeated(msgspec.Struct, frozen=True, gc=False):
    """The same offset, committed again and again: `times` since `since_ms`."""

    since_ms: int
    times: int


Topics = dict[str, dict[int, Committed]]


class Offsets:
    """group -> topic -> partition -> :class:`Committed`. `newest` is where the last record of any stands in the log.

    `repeated` is soft: what has been seen of commits that moved nothing, for those who ask why.
    """

    def __init__(self) -> None:
        self.groups: dict[str, Topics] = {}
        self.open: dict[int, dict[str, Topics]] = {}
        self.repeated: dict[tuple[str, str, int], Repeated] = {}
        self.newest = -1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Offsets) and (self.groups, self.open) == (other.groups, other.open)

    __hash__ = None  # type: ignore[assignment]

    # Replay

    def replay(
        self, offset: int, producer: Producer | None, key: OffsetCommitKey, value: OffsetCommitValue | None
    ) -> None:
        """Take in one record; with a producer it counts only when its transaction commits."""
        self.newest = offset
        place = key.group, key.topic, key.partition
        self._note(place, None if value is None else value.offset, producer)
        if value is None:
            _drop(self.groups, *place)
            for groups in self.open.values():
                _drop(groups, *place)
            return
        groups = self.groups if producer is None else self.open.setdefault(producer[0], {})
        _put(groups, *place, _committed(offset, value))

    def keep(self, group_id: str, committed: Sequence[PlainOffset], now_ms: int, first: int) -> None:
        """Take in the records of a plain commit, as :meth:`replay` does; `first` is the offset of the first."""
        for offset, plain in enumerate(committed, first):
            place = group_id, plain.topic, plain.partition
            self._note(place, plain.offset)
            held = Committed(plain.offset, plain.leader_epoch, plain.metadata, now_ms, -1, plain.topic_id, offset)
            _put(self.groups, *place, held)
        self.newest = first + len(committed) - 1

    def _note(self, place: tuple[str, str, int], offset: int | None, producer: Producer | None = None) -> None:
        """Count a commit that does not move its partition; any other ends the count."""
        held = self.get(*place)
        if producer is not None or offset is None or held is None or held.offset != offset:
            self.repeated.pop(place, None)
            return
        seen = self.repeated.get(place, Repeated(held.committed_ms, 1))
        self.repeated[place] = Repeated(seen.since_ms, seen.times + 1)

    def replay_marker(self, producer: Producer, committed: bool) -> None:
        """A transaction ended: its offsets count now, unless a later plain commit overtook them."""
        groups = self.open.pop(producer[0], {})
        if not committed:
            return
        for group_id, topic, partition, kept in _each(groups):
            held = self.get(group_id, topic, partition)
            if held is None or held.written_at < kept.written_at:
                _put(self.groups, group_id, topic, partition, kept)

    # Look

    def get(self, group_id: str, topic: str, partition: int) -> Committed | None:
        topics = self.groups.get(group_id)
        partitions = None if topics is None else topics.get(topic)
        return None if partitions is None else partitions.get(partition)

    def unstable(self, group_id: str, topic: str, partition: int) -> bool:
        """Whether a transaction that is still open has committed this one."""
        return any(partition in groups.get(group_id, {}).get(topic, {}) for groups in self.open.values())

    def has_open(self, group_id: str) -> bool:
        return any(group_id in groups for groups in self.open.values())

    # Commit, fetch, delete

    def commit(
        self, request: OffsetCommitRequest, metadata_bytes_max: int, now_ms: int
    ) -> tuple[OffsetCommitResponse, tuple[Record, ...]]:
        """The answer to a commit that is allowed, and the records that make it true."""
        records: list[Record] = []
        topics: list[OffsetCommitResponseTopic] = []
        expires_ms = -1
        if request.retention_time_ms != NO_RETENTION:
            expires_ms = min(now_ms + request.retention_time_ms, LATEST_MS)
        for topic in request.topics:
            answers: list[OffsetCommitResponsePartition] = []
            for asked in topic.partitions:
                code = ErrorCode.NONE
                if len(asked.committed_metadata or "") > metadata_bytes_max:
                    code = ErrorCode.OFFSET_METADATA_TOO_LARGE
                else:
                    key = OffsetCommitKey(request.group_id, topic.name, asked.partition_index)
                    records.append(_commit_record(key, asked, topic.topic_id, now_ms, expires_ms))
                answers.append(OffsetCommitResponsePartition(asked.partition_index, int(code)))
            topics.append(OffsetCommitResponseTopic(topic.name, topic.topic_id, answers))
        return OffsetCommitResponse(topics=topics), tuple(records)

    def fetch(self, request: OffsetFetchRequestGroup, require_stable: bool) -> OffsetFetchResponseGroup:
        """What a group has committed for the named partitions, or for all when the request names no topics."""
        if request.topics is None:
            return self._fetch_all(request.group_id, require_stable)
        topics = [
            OffsetFetchResponseTopics(
                topic.name,
                topic.topic_id,
                [
                    self._answer(request.group_id, topic.name, index, require_stable, topic.topic_id)
                    for index in topic.partition_indexes
                ],
            )
            for topic in request.topics
        ]
        return OffsetFetchResponseGroup(request.group_id, topics)

    def _fetch_all(self, group_id: str, require_stable: bool) -> OffsetFetchResponseGroup:
        topics = [
            OffsetFetchResponseTopics(
                name,
                next(iter(partitions.values())).topic_id,
                [self._answer(group_id, name, index, require_stable) for index in partitions],
            )
            for name, partitions in self.groups.get(group_id, {}).items()
        ]
        return OffsetFetchResponseGroup(group_id, topics)

    def _answer(
        self, group_id: str, topic: str, index: int, require_stable: bool, topic_id: bytes = ZERO_UUID
    ) -> OffsetFetchResponsePartitions:
        """What a partition has; nothing, if that was committed for an earlier topic of the name than is asked for."""
        if require_stable and self.open and self.unstable(group_id, topic, index):
            return OffsetFetchResponsePartitions(index, -1, -1, "", int(ErrorCode.UNSTABLE_OFFSET_COMMIT))
        held = self.get(group_id, topic, index)
        if held is None or (held.topic_id != topic_id and ZERO_UUID not in (held.topic_id, topic_id)):
            return OffsetFetchResponsePartitions(index, -1, -1, "", 0)
        return OffsetFetchResponsePartitions(index, held.offset, held.leader_epoch, held.metadata, 0)

    def delete(self, group_id: str, topic: str, partition: int) -> Iterator[Record]:
        """The tombstone of one offset, if there is one to delete."""
        if self.get(group_id, topic, partition) is not None or self.unstable(group_id, topic, partition):
            yield tombstone(group_id, topic, partition)

    def delete_asked(
        self, request: OffsetDeleteRequest, subscribes: Callable[[str], bool]
    ) -> tuple[OffsetDeleteResponse, tuple[Record, ...]]:
        """The answer to a deletion, and its tombstones; what ``subscribes(topic)`` tells to be in use stays."""
        records: list[Record] = []
        topics: list[OffsetDeleteResponseTopic] = []
        for topic in request.topics:
            in_use = subscribes(topic.name)
            code = int(ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC if in_use else ErrorCode.NONE)
            for asked in () if in_use else topic.partitions:
                records += self.delete(request.group_id, topic.name, asked.partition_index)
            answers = [OffsetDeleteResponsePartition(asked.partition_index, code) for asked in topic.partitions]
            topics.append(OffsetDeleteResponseTopic(topic.name, answers))
        return OffsetDeleteResponse(topics=topics), tuple(records)

    def delete_group(self, group_id: str) -> list[Record]:
        """Tombstones of all that a group has committed, in open transactions too."""
        places = {(topic, partition) for _, topic, partition, _ in self._of_group(group_id)}
        return [tombstone(group_id, topic, partition) for topic, partition in sorted(places)]

    def delete_where(self, gone: Callable[[str, Committed], bool]) -> Iterator[Record]:
        """Tombstones of every offset for which ``gone(topic, committed)`` is true."""
        for groups in (self.groups, *self.open.values()):
            for group_id, topic, partition, held in _each(groups):
                if gone(topic, held):
                    yield tombstone(group_id, topic, partition)

    def _of_group(self, group_id: str) -> Iterator[tuple[str, str, int, Committed]]:
        for groups in (self.groups, *self.open.values()):
            yield from _each({group_id: groups.get(group_id, {})})


def tombstone(group_id: str, topic: str, partition: int) -> Record:
    return Record(OffsetCommitKey(group_id, topic, partition))


def expired(held: Committed, idle_since_ms: int | None, now_ms: int, retention_ms: int) -> bool:
    """Whether an offset is past its time (KIP-211).

    :param idle_since_ms: when its group became empty; None to count from the commit.
    """
    if held.expires_ms >= 0:
        return now_ms >= held.expires_ms
    return now_ms - (held.committed_ms if idle_since_ms is None else idle_since_ms) >= retention_ms


def _commit_record(
    key: OffsetCommitKey, asked: OffsetCommitRequestPartition, topic_id: bytes, now_ms: int, expires_ms: int
) -> Record:
    value = OffsetCommitValue(
        offset=asked.committed_offset,
        leader_epoch=asked.committed_leader_epoch,
        metadata=asked.committed_metadata or "",
        commit_timestamp=now_ms,
        expire_timestamp=expires_ms,
        topic_id=topic_id,
    )
    if expires_ms >= 0:
        return Record(key, value, OFFSET_COMMIT_VALUE_VERSION_EXPIRING)
    return Record(key, value, OFFSET_COMMIT_VALUE_VERSION)


def _committed(offset: int, value: OffsetCommitValue) -> Committed:
    expiring = value.expire_timestamp >= 0
    return Committed(
        value.offset,
        -1 if expiring else value.leader_epoch,
        value.metadata,
        value.commit_timestamp,
        value.expire_timestamp,
        ZERO_UUID if expiring else value.topic_id,
        offset,
    )


def _put(groups: dict[str, Topics], group_id: str, topic: str, partition: int, held: Committed) -> None:
    topics = groups.get(group_id)
    if topics is None:
        topics = groups[group_id] = {}
    partitions = topics.get(topic)
    if partitions is None:
        partitions = topics[topic] = {}
    partitions[partition] = held


def _drop(groups: dict[str, Topics], group_id: str, topic: str, partition: int) -> None:
    topics = groups.get(group_id, {})
    partitions = topics.get(topic, {})
    partitions.pop(partition, None)
    if topic in topics and not partitions:
        del topics[topic]
    if group_id in groups and not topics:
        del groups[group_id]


def _each(groups: dict[str, Topics]) -> Iterator[tuple[str, str, int, Committed]]:
    for group_id, topics in groups.items():
        for topic, partitions in topics.items():
            for partition, held in partitions.items():
                yield group_id, topic, partition, held

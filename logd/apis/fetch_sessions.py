"""Fetch sessions (KIP-227): what a consumer follows is remembered, so that requests and answers name only changes.

Pure: no clock, no waiting. One :class:`Sessions` for a node, used by the Fetch handler. Bounded by
``max.incremental.fetch.session.cache.slots``; when it is full and nothing may be evicted, a consumer simply gets no
session and goes on with full requests.
"""

from __future__ import annotations

from collections.abc import Iterable

from logd.errors import ErrorCode, Refused
from logd.wire.schemas.fetch import FetchPartition, FetchRequest, FetchTopic

SESSIONLESS = 0
FINAL_EPOCH = -1
FIRST_EPOCH = 0
EPOCH_MAX = ID_MAX = (1 << 31) - 1

EVICTION_MS = 120_000
"""A session that nobody used for this long may make room for a new one."""

Key = tuple[str, bytes, int]


class Followed:
    """One partition that a consumer reads: from where, how much, and what it was last told."""

    __slots__ = (
        "bytes_max",
        "epoch",
        "fetched_epoch",
        "index",
        "known_as",
        "offset",
        "told_end",
        "told_start",
        "topic",
        "topic_id",
    )

    def __init__(self, topic: str, topic_id: bytes, asked: FetchPartition) -> None:
        self.topic = topic
        self.topic_id = topic_id
        self.index = asked.partition
        self.known_as = topic
        """The topic's name, once its id was there: what the id meant when it is gone."""
        self.told_end = -1
        self.told_start = -1
        self.ask(asked)

    def ask(self, asked: FetchPartition) -> None:
        """Take over what a request says."""
        self.offset = asked.fetch_offset
        self.bytes_max = asked.partition_max_bytes
        self.epoch = asked.current_leader_epoch
        self.fetched_epoch = asked.last_fetched_epoch


class Session:
    """What one consumer follows."""

    __slots__ = ("by_id", "epoch", "followed", "id", "used_ms")

    def __init__(self, number: int, by_id: bool, now_ms: int) -> None:
        self.id = number
        self.by_id = by_id
        self.epoch = 1
        self.followed: dict[Key, Followed] = {}
        self.used_ms = now_ms

    def ask(self, topics: Iterable[FetchTopic]) -> None:
        """Add partitions, or change what is wanted of them."""
        for topic in topics:
            for asked in topic.partitions:
                key = (topic.topic, topic.topic_id, asked.partition)
                known = self.followed.get(key)
                if known is None:
                    self.followed[key] = Followed(topic.topic, topic.topic_id, asked)
                else:
                    known.ask(asked)

    def update(self, request: FetchRequest) -> None:
        """Apply an incremental request: change, add, then forget, so that what is in both is forgotten, as in Kafka."""
        self.ask(request.topics)
        for gone in request.forgotten_topics_data:
            for index in gone.partitions:
                self.followed.pop((gone.topic, gone.topic_id, index), None)

    def rotate(self, served: Iterable[Followed]) -> None:
        """What got data goes to the end, so that the others come first next time."""
        for followed in served:
            key = (followed.topic, followed.topic_id, followed.index)
            if self.followed.pop(key, None) is not None:
                self.followed[key] = followed


def followed_by(request: FetchRequest) -> list[Followed]:
    """What a full request names, in its order; of a partition that is named twice the last wish counts, as in Kafka."""
    wanted = {
        (topic.topic, topic.topic_id, asked.partition): Followed(topic.topic, topic.topic_id, asked)
        for topic in request.topics
        for asked in topic.partitions
    }
    return list(wanted.values())


class Sessions:
    """All fetch sessions of a node.

    :param last_id: the id before the first one, 0 to 2^31-1. At random, or a consumer that comes back after a restart
        would close the new session of another by its own old id.
    """

    def __init__(self, slots: int, last_id: int = 0) -> None:
        self.slots = slots
        self._sessions: dict[int, Session] = {}
        self._last_id = last_id

    def __len__(self) -> int:
        return len(self._sessions)

    def resume(self, request: FetchRequest, by_id: bool, now_ms: int) -> Session:
        """The session of an incremental request.

        :raises Refused: FETCH_SESSION_ID_NOT_FOUND, INVALID_FETCH_SESSION_EPOCH, FETCH_SESSION_TOPIC_ID_ERROR.
        """
        session = self._sessions.get(request.session_id)
        if session is None:
            raise Refused(
                ErrorCode.FETCH_SESSION_ID_NOT_FOUND,
                f"there is no fetch session {request.session_id}: send a full Fetch",
            )
        if request.session_epoch != session.epoch:
            raise Refused(
                ErrorCode.INVALID_FETCH_SESSION_EPOCH,
                f"fetch session {session.id} is at epoch {session.epoch}, not {request.session_epoch}",
            )
        if session.by_id != by_id:
            raise Refused(
                ErrorCode.FETCH_SESSION_TOPIC_ID_ERROR, f"fetch session {session.id} began with or without topic ids"
            )
        session.epoch = session.epoch + 1 if session.epoch < EPOCH_MAX else 1
        session.used_ms = now_ms
        self._sessions[session.id] = self._sessions.pop(session.id)
        session.update(request)
        return session

    def close(self, number: int) -> None:
        """Forget a session; unknown ones are nothing to complain of."""
        self._sessions.pop(number, None)

    def begin(self, request: FetchRequest, by_id: bool, now_ms: int) -> Session | None:
        """A new session for a full request, or None when there is no room."""
        if not self._make_room(now_ms):
            return None
        self._last_id = self._last_id % ID_MAX + 1
        while self._last_id in self._sessions:
            self._last_id = self._last_id % ID_MAX + 1
        session = Session(self._last_id, by_id, now_ms)
        session.ask(request.topics)  # it names all: what it would have forgotten is not
        self._sessions[session.id] = session
        return session

    def _make_room(self, now_ms: int) -> bool:
        if len(self._sessions) < self.slots:
            return True
        oldest = next(iter(self._sessions.values()), None)
        if oldest is None or now_ms - oldest.used_ms <= EVICTION_MS:
            return False
        del self._sessions[oldest.id]
        return True

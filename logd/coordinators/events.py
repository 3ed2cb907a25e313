"""What happens to the group machine: PURE values, made by the front and by the timers.

A request comes as :class:`Asked`; everything that time brings is an event of its own. Random numbers and the
facts of the connection come inside, so that a machine needs neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from logd.cluster.image import Topic
from logd.wire.message import Message
from logd.wire.schemas.offset_commit import OffsetCommitRequest
from logd.wire.schemas.offset_fetch import OffsetFetchRequestGroup

if TYPE_CHECKING:
    from logd.coordinators.modern_groups import ModernLimits
    from logd.coordinators.rebalance import GroupLimits


class Asked(msgspec.Struct, frozen=True):
    """A client's request for one group, or for what this shard knows.

    :param to: where replies go; opaque to the machine.
    :param request: the wire's request message (for OffsetFetch, one group of it).
    :param version: the API version of the request.
    :param client_host: the peer as Kafka writes it, ``/127.0.0.1``.
    :param new_id: a fresh UUID in text, for a member that has no id yet.
    """

    to: object
    request: Message
    version: int = 0
    client_id: str = ""
    client_host: str = ""
    new_id: str = ""


class PlainOffset(NamedTuple):
    """One offset of a plain commit; `metadata` is empty where the client sent none."""

    topic: str
    topic_id: bytes
    partition: int
    offset: int
    leader_epoch: int
    metadata: str


class PlainCommit(NamedTuple):
    """An OffsetCommit that may be carried out at once: the fields of the request under their names, in one piece.

    :param version: the API version of the request.
    """

    group_id: str
    generation_id_or_member_epoch: int
    member_id: str
    group_instance_id: str | None
    version: int
    offsets: list[PlainOffset]


class JoinExpired(msgspec.Struct, frozen=True):
    """The rebalance timeout of a group ended: whoever has not joined again is out."""

    group_id: str


class JoinDelayElapsed(msgspec.Struct, frozen=True):
    """The wait for more first members ended; `remaining_ms` may still be added when some came (KIP-134)."""

    group_id: str
    delay_ms: int
    remaining_ms: int


class SyncExpired(msgspec.Struct, frozen=True):
    """Members of `generation` that joined had their time to ask for the assignment."""

    group_id: str
    generation: int


class SessionExpired(msgspec.Struct, frozen=True):
    """Nothing was heard of a member for its session timeout."""

    group_id: str
    member_id: str


class SweepElapsed(msgspec.Struct, frozen=True):
    """Time to look for offsets and groups that nobody needs any more (KIP-211)."""


class TopicsDeleted(msgspec.Struct, frozen=True):
    """These topics are gone, and the offsets committed for them with them.

    :param up_to: of the rest of a deletion that is too large for one batch: what the shard's log has got after this
        offset is of a topic that was made again; -1 at first.
    """

    names: frozenset[str]
    up_to: int = -1


class TopicsFound(msgspec.Struct, frozen=True):
    """What topics there are, told once after loading: a deletion may have been missed while nobody led the shard.

    :param ids: topic name -> topic id (16 bytes).
    :param up_to: as in :class:`TopicsDeleted`.
    """

    ids: Mapping[str, bytes]
    up_to: int = -1


class OffsetsAsked(msgspec.Struct, frozen=True):
    """An OffsetFetch for one group; `require_stable` keeps back what an open transaction may still change (KIP-447)."""

    to: object
    request: OffsetFetchRequestGroup
    require_stable: bool = False


class PendingAsked(msgspec.Struct, frozen=True):
    """A TxnOffsetCommit: offsets that count when the transaction of `producer` (id, epoch) commits (KIP-98, KIP-447).

    It comes in the form of a plain commit, with which it shares all but its fences.
    """

    to: object
    request: OffsetCommitRequest
    producer: tuple[int, int]


class TopicsSeen(msgspec.Struct, frozen=True):
    """The cluster's topics, whenever they changed: what groups of the consumer protocol subscribe to (KIP-848)."""

    version: int
    by_name: Mapping[str, Topic]
    by_id: Mapping[bytes, Topic]


class SettingsSeen(msgspec.Struct, frozen=True):
    """The settings in force, told whenever they changed: of all groups, and of those that have some of their own."""

    classic: GroupLimits
    modern: ModernLimits
    own: Mapping[str, ModernLimits]


class MemberExpired(msgspec.Struct, frozen=True):
    """Nothing was heard of a member of the consumer protocol for its session timeout."""

    group_id: str
    member_id: str


class RejoinExpired(msgspec.Struct, frozen=True):
    """A classic member of a group of the consumer protocol had its time to join again, or to ask what it may read."""

    group_id: str
    member_id: str


class RevocationExpired(msgspec.Struct, frozen=True):
    """A member of the consumer protocol had its rebalance timeout to give up partitions at `epoch`."""

    group_id: str
    member_id: str
    epoch: int

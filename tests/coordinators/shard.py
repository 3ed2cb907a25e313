"""A shard of groups without loop, clock or disk: steps the machine as the runtime does, and prints what it asks for.

Used by the golden transcripts, the table of states and the stateful test. Calls are names; their answers are kept.
"""

from __future__ import annotations

from typing import Any

from logd.chronicle import Note
from logd.coordinators.deadlines import Deadlines
from logd.coordinators.effects import Append, Arm, Disarm, Effect, Record, Reply
from logd.coordinators.events import Asked, OffsetsAsked
from logd.coordinators.groups import GroupMachine
from logd.coordinators.rebalance import GroupLimits
from logd.coordinators.records import from_bytes, to_bytes
from logd.errors import ErrorCode, Refused
from logd.wire.codec import encode
from logd.wire.message import Message
from logd.wire.schemas.consumer_protocol import ConsumerProtocolSubscription
from logd.wire.schemas.group_records import (
    GroupMetadataKey,
    GroupMetadataValue,
    MemberMetadata,
    OffsetCommitKey,
    OffsetCommitValue,
)
from logd.wire.schemas.heartbeat import HeartbeatRequest
from logd.wire.schemas.join_group import JoinGroupRequest, JoinGroupRequestProtocol
from logd.wire.schemas.leave_group import LeaveGroupRequest, MemberIdentity
from logd.wire.schemas.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
)
from logd.wire.schemas.sync_group import SyncGroupRequest, SyncGroupRequestAssignment

Answer = Message | Refused


def subscription(*topics: str) -> bytes:
    """The metadata of a consumer that subscribes to these topics."""
    return b"\x00\x00" + encode(ConsumerProtocolSubscription(list(topics)), 0)


class Shard:
    """One machine, its log and its deadlines. `failing` refuses appends; `log` is what a disk would hold."""

    def __init__(
        self, limits: GroupLimits | None = None, log: list[tuple[bytes, bytes | None]] | None = None, ids: int = 0
    ) -> None:
        self.limits = limits or GroupLimits()
        self.machine = GroupMachine(self.limits)
        self.log = [] if log is None else log
        self.now_ms = 0
        self.failing = False
        self.answers: dict[str, Answer] = {}
        self.deadlines = Deadlines()
        self.ids = ids

    # Steps

    def step(self, event: object) -> list[Effect]:
        """Handle one event as the runtime does; returns all effects."""
        return self._carry_out(self.machine.handle(event, self.now_ms))

    def _carry_out(self, effects: list[Effect]) -> list[Effect]:
        records = [record for effect in effects if isinstance(effect, Append) for record in effect.records]
        if records and self.failing:
            return self._take_back(effects, records)
        for record in records:
            self.log.append(to_bytes(record))
            self.machine.replay(len(self.log) - 1, None, record)
        for effect in effects:
            if isinstance(effect, Reply):
                self._reply(effect)
            self._set_timer(effect)
        return effects

    def _take_back(self, effects: list[Effect], records: list[Record]) -> list[Effect]:
        why = Refused(ErrorCode.NOT_COORDINATOR, "the log failed")
        answered = [Reply(effect.to, why) if isinstance(effect, Reply) else effect for effect in effects]
        for effect in answered:
            if isinstance(effect, Reply):
                self._reply(effect)
            self._set_timer(effect)
        return answered + self._carry_out(self.machine.refused(records, why, self.now_ms))

    def _reply(self, reply: Reply) -> None:
        assert isinstance(reply.to, str)
        assert reply.to not in self.answers, f"{reply.to} was answered twice"
        self.answers[reply.to] = reply.message

    def _set_timer(self, effect: Effect) -> None:
        if isinstance(effect, Arm):
            self.deadlines.arm(effect.key, self.now_ms + effect.after_ms, effect.event)
        elif isinstance(effect, Disarm):
            self.deadlines.disarm(effect.key)

    def advance(self, ms: int) -> list[Effect]:
        """Let time pass and deadlines come, each at its own moment."""
        effects: list[Effect] = []
        end_ms = self.now_ms + ms
        while (next_ms := self.deadlines.next_ms()) is not None and next_ms <= end_ms:
            self.now_ms = max(self.now_ms, int(next_ms))
            due = self.deadlines.pop(self.now_ms)
            if due is not None:
                effects += self.step(due[1])
        self.now_ms = end_ms
        return effects

    def replayed(self) -> GroupMachine:
        """A machine that has seen nothing but the log."""
        machine = GroupMachine(self.limits)
        for offset, (key, value) in enumerate(self.log):
            record = from_bytes(key, value)
            assert record is not None
            machine.replay(offset, None, record)
        return machine

    def reload(self) -> list[Effect]:
        """Die, and come back from the log."""
        effects = self._carry_out(self.machine.unloaded())
        self.deadlines = Deadlines()
        self.machine = self.replayed()
        return effects + self._carry_out(self.machine.loaded(self.now_ms))

    # Requests

    def ask(self, to: str, request: Message, version: int = 9, client: str = "c") -> list[Effect]:
        """Put a request to the machine; the call is called `to`."""
        self.ids += isinstance(request, JoinGroupRequest) and not request.member_id
        return self.step(Asked(to, request, version, client, "/127.0.0.1", str(self.ids)))

    def fetch(self, to: str, request: Any, require_stable: bool = False) -> list[Effect]:
        return self.step(OffsetsAsked(to, request, require_stable))

    def join(
        self,
        to: str,
        group: str = "g",
        member: str = "",
        *,
        instance: str | None = None,
        protocols: tuple[str, ...] = ("range",),
        topics: tuple[str, ...] = ("t",),
        kind: str = "consumer",
        session_ms: int = 10_000,
        rebalance_ms: int = 30_000,
        version: int = 9,
        client: str = "c",
    ) -> list[Effect]:
        metadata = subscription(*topics)
        request = JoinGroupRequest(
            group,
            session_ms,
            rebalance_ms,
            member,
            instance,
            kind,
            [JoinGroupRequestProtocol(name, metadata) for name in protocols],
        )
        return self.ask(to, request, version, client)

    def sync(
        self,
        to: str,
        member: str,
        generation: int,
        group: str = "g",
        *,
        instance: str | None = None,
        assignments: dict[str, bytes] | None = None,
        protocol: str | None = None,
        kind: str | None = None,
    ) -> list[Effect]:
        given = [SyncGroupRequestAssignment(each, data) for each, data in (assignments or {}).items()]
        return self.ask(to, SyncGroupRequest(group, generation, member, instance, kind, protocol, given), 5)

    def heartbeat(
        self, to: str, member: str, generation: int, group: str = "g", *, instance: str | None = None
    ) -> list[Effect]:
        return self.ask(to, HeartbeatRequest(group, generation, member, instance), 4)

    def leave(self, to: str, *members: tuple[str, str | None], group: str = "g") -> list[Effect]:
        identities = [MemberIdentity(member, instance) for member, instance in members]
        return self.ask(to, LeaveGroupRequest(group, members=identities), 5)

    def commit(
        self,
        to: str,
        member: str,
        generation: int,
        offsets: dict[tuple[str, int], int],
        group: str = "g",
        *,
        instance: str | None = None,
        metadata: str | None = "",
        retention_ms: int = -1,
        version: int = 9,
    ) -> list[Effect]:
        topics = [
            OffsetCommitRequestTopic(topic, partitions=[OffsetCommitRequestPartition(index, offset, -1, metadata)])
            for (topic, index), offset in offsets.items()
        ]
        request = OffsetCommitRequest(group, generation, member, instance, retention_ms, topics)
        return self.ask(to, request, version)


# Printing


def lines(effects: list[Effect]) -> list[str]:
    """What a transcript shows of effects."""
    shown: list[str] = []
    for effect in effects:
        match effect:
            case Append(records=records):
                shown += [f"append {_record(record)}" for record in records]
            case Reply(to=to, message=message):
                shown.append(f"reply {to}: {_answer(message)}")
            case Arm(key=key, after_ms=after_ms):
                shown.append(f"arm {_key(key)} in {after_ms} ms")
            case Disarm(key=key):
                shown.append(f"disarm {_key(key)}")
            case Note(kind=kind, text=text):
                shown.append(f"note {kind}: {text}")
    return shown


def _key(key: object) -> str:
    assert isinstance(key, tuple)
    return " ".join(str(part) for part in key) if key[0] != "topics" else "topics"


def _record(record: Record) -> str:
    key, value = record.key, record.value
    if isinstance(key, GroupMetadataKey):
        if value is None:
            return f"group {key.group}: gone"
        assert isinstance(value, GroupMetadataValue)
        members = ", ".join(_member(each) for each in value.members)
        return (
            f"group {key.group}: generation {value.generation}, {value.protocol_type or '-'} {value.protocol or '-'}, "
            f"led by {value.leader or '-'} [{members}]"
        )
    assert isinstance(key, OffsetCommitKey)
    if value is None:
        return f"offset {key.group} {key.topic}-{key.partition}: gone"
    assert isinstance(value, OffsetCommitValue)
    note = f" {value.metadata!r}" if value.metadata else ""
    return f"offset {key.group} {key.topic}-{key.partition}: {value.offset}{note} (v{record.value_version})"


def _member(member: MemberMetadata) -> str:
    instance = f"={member.group_instance_id}" if member.group_instance_id else ""
    return f"{member.member_id}{instance}:{member.assignment.decode()}"


def _answer(message: Answer) -> str:
    if isinstance(message, Refused):
        return f"refused {message.code.name}"
    fields = [
        f"{name}={_named(name, getattr(message, name))}" for name in message.__struct_fields__ if _told(message, name)
    ]
    return " ".join([type(message).__name__, *fields])


def _told(message: Message, name: str) -> bool:
    """Whether a field says something: it is not the throttle time, nor left at its default."""
    return name not in ("throttle_time_ms", "topic_id") and getattr(message, name) != getattr(type(message)(), name)


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return "[" + "; ".join(_plain(each) for each in value) + "]"
    if isinstance(value, Message):
        kept = [name for name in value.__struct_fields__ if _told(value, name)]
        return " ".join(f"{name}={_named(name, getattr(value, name))}" for name in kept)
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>" if b"\x00" in value else value.decode()
    return str(value)


def _named(name: str, value: Any) -> str:
    return ErrorCode(value).name if name == "error_code" else _plain(value)

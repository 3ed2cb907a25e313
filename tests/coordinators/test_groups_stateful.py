"""Random stories of a shard: whatever happens, the log alone gives the same hard state, and nobody waits for ever."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from logd.coordinators.events import TopicsDeleted
from logd.coordinators.rebalance import GroupLimits
from logd.wire.schemas.delete_groups import DeleteGroupsRequest
from logd.wire.schemas.join_group import JoinGroupResponse
from logd.wire.schemas.offset_delete import (
    OffsetDeleteRequest,
    OffsetDeleteRequestPartition,
    OffsetDeleteRequestTopic,
)
from tests.coordinators.shard import Shard

GROUPS = st.sampled_from(["g", "h"])
TOPICS = st.sampled_from(["t", "u"])
INSTANCES = st.sampled_from([None, None, "i", "j"])
PROTOCOLS = st.sampled_from([("range",), ("range", "sticky"), ("sticky", "range"), ("sticky",)])
LIMITS = GroupLimits(size_max=3, retention_ms=200_000, sweep_every_ms=50_000, sweep_records_max=3)


class Stories(RuleBasedStateMachine):
    """Clients that join, sync, beat, commit and leave, mostly as they should; disks and coordinators that fail."""

    def __init__(self) -> None:
        super().__init__()
        self.shard = Shard(LIMITS)
        self.calls = 0

    def call(self) -> str:
        self.calls += 1
        return f"call {self.calls}"

    def pick(self, group: str, which: int) -> tuple[str, str | None, int]:
        """A member of the group, with its instance and the generation; somebody unknown when there is none."""
        live = self.shard.machine.groups.get(group)
        if live is None or not live.members:
            return "nobody", None, 0
        member = list(live.members.values())[which % len(live.members)]
        return member.member_id, member.instance_id, live.generation

    @rule(group=GROUPS, instance=INSTANCES, protocols=PROTOCOLS, topic=TOPICS, version=st.sampled_from([3, 5, 9]))
    def join_new(self, group: str, instance: str | None, protocols: tuple[str, ...], topic: str, version: int) -> None:
        self.shard.join(self.call(), group, instance=instance, protocols=protocols, topics=(topic,), version=version)

    @rule(group=GROUPS, which=st.integers(0, 3), protocols=PROTOCOLS)
    def join_again(self, group: str, which: int, protocols: tuple[str, ...]) -> None:
        member, instance, _ = self.pick(group, which)
        self.shard.join(self.call(), group, member, instance=instance, protocols=protocols)

    @rule(group=GROUPS)
    def join_announced(self, group: str) -> None:
        live = self.shard.machine.groups.get(group)
        if live is not None and live.pending:
            self.shard.join(self.call(), group, min(live.pending))

    @rule(group=GROUPS)
    def everyone_joins(self, group: str) -> None:
        for which in range(3):
            member, instance, _ = self.pick(group, which)
            self.shard.join(self.call(), group, member, instance=instance)

    @rule(group=GROUPS, which=st.integers(0, 3), stale=st.booleans())
    def sync(self, group: str, which: int, stale: bool) -> None:
        member, instance, generation = self.pick(group, which)
        given = {member: b"mine", "nobody": b"lost"}
        self.shard.sync(self.call(), member, generation - stale, group, instance=instance, assignments=given)

    @rule(group=GROUPS, which=st.integers(0, 3))
    def beat(self, group: str, which: int) -> None:
        member, instance, generation = self.pick(group, which)
        self.shard.heartbeat(self.call(), member, generation, group, instance=instance)

    @rule(group=GROUPS, which=st.integers(0, 3), announced=st.booleans())
    def leave(self, group: str, which: int, announced: bool) -> None:
        member, instance, _ = self.pick(group, which)
        live = self.shard.machine.groups.get(group)
        if announced and live is not None and live.pending:
            member, instance = min(live.pending), None
        self.shard.leave(self.call(), (member, instance), group=group)

    @rule(group=GROUPS, which=st.integers(0, 3), topic=TOPICS, offset=st.integers(0, 99), simple=st.booleans())
    def commit(self, group: str, which: int, topic: str, offset: int, simple: bool) -> None:
        member, instance, generation = ("", None, -1) if simple else self.pick(group, which)
        offsets = {(topic, 0): offset, (topic, 1): offset}
        self.shard.commit(self.call(), member, generation, offsets, group, instance=instance)

    @rule(group=GROUPS, topic=TOPICS)
    def delete_offsets(self, group: str, topic: str) -> None:
        topics = [OffsetDeleteRequestTopic(topic, [OffsetDeleteRequestPartition(0)])]
        self.shard.ask(self.call(), OffsetDeleteRequest(group, topics), 0)

    @rule()
    def delete_groups(self) -> None:
        self.shard.ask(self.call(), DeleteGroupsRequest(["g", "h"]), 2)

    @rule(topic=TOPICS)
    def delete_topic(self, topic: str) -> None:
        self.shard.step(TopicsDeleted(frozenset({topic})))

    @rule(ms=st.sampled_from([0, 0, 1_000, 9_000, 31_000, 120_000]))
    def pass_time(self, ms: int) -> None:
        self.shard.advance(ms)

    @precondition(lambda self: not self.shard.failing)
    @rule()
    def disk_fails(self) -> None:
        self.shard.failing = True

    @precondition(lambda self: self.shard.failing)
    @rule()
    def disk_recovers(self) -> None:
        self.shard.failing = False

    @rule()
    def coordinator_restarts(self) -> None:
        self.shard.reload()
        assert all(call in self.shard.answers for call in self._calls()), "a call that nobody answers any more"

    @invariant()
    def soft_state_is_whole(self) -> None:
        self.shard.machine.check()

    @invariant()
    def the_log_tells_it_all(self) -> None:
        replayed = self.shard.replayed()
        assert replayed.stored == self.shard.machine.stored
        assert replayed.offsets == self.shard.machine.offsets

    @invariant()
    def whoever_waits_is_parked(self) -> None:
        """A call without an answer is a join or a sync that its member still holds."""
        waiting = {call for call in self._calls() if call not in self.shard.answers}
        held = {
            call
            for group in self.shard.machine.groups.values()
            for member in group.members.values()
            for call in (member.joining, member.syncing)
            if call is not None
        }
        assert waiting == held

    def _calls(self) -> list[str]:
        return [f"call {number}" for number in range(1, self.calls + 1)]

    def teardown(self) -> None:
        """With a disk that works and time enough, every call is answered; a join that failed is in no generation."""
        self.shard.failing = False
        self.shard.advance(2_000_000)
        assert all(call in self.shard.answers for call in self._calls())
        self.soft_state_is_whole()
        for answer in self.shard.answers.values():
            if isinstance(answer, JoinGroupResponse) and answer.error_code:
                assert answer.generation_id == -1


Stories.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestStories = Stories.TestCase

"""Random stories of groups of the consumer protocol.

Nobody ever holds what somebody else holds, the log alone gives the same hard state, also when it is compacted, and
once members behave everyone has what the target says and nothing is left over.
"""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from logd.coordinators.modern_groups import ModernLimits
from logd.errors import ErrorCode
from logd.wire.schemas.delete_groups import DeleteGroupsRequest
from tests.coordinators.modern_shard import Client, ModernShard, settle

IDS = [f"m{number}" for number in range(5)]
WISHES: list[dict[str, Any]] = [
    {"subscribed_topic_names": ["t"]},
    {"subscribed_topic_names": ["t", "u"]},
    {"subscribed_topic_names": []},
    {"subscribed_topic_regex": "[tu]"},
    {"subscribed_topic_names": ["u"], "server_assignor": "range"},
]


class Stories(RuleBasedStateMachine):
    """Consumers that join, work, fall silent and go; topics that come, grow and go; disks that fail."""

    def __init__(self) -> None:
        super().__init__()
        self.shard = ModernShard(modern=ModernLimits(session_ms=10_000, size_max=4), t=3)
        self.clients: dict[str, Client] = {}

    @rule(member=st.sampled_from(IDS), wishes=st.sampled_from(WISHES), static=st.booleans())
    def join(self, member: str, wishes: dict[str, Any], static: bool) -> None:
        if member not in self.clients:
            instance = f"i{member}" if static else None
            self.clients[member] = Client(self.shard, member, instance=instance, **wishes)
        self.beat(member)

    @rule(member=st.sampled_from(IDS))
    def beat(self, member: str) -> None:
        if member in self.clients:
            self.clients[member].beat()

    @rule(member=st.sampled_from(IDS), slow=st.booleans())
    def grow_slow(self, member: str, slow: bool) -> None:
        """Not to say what one has keeps it."""
        if member in self.clients:
            self.clients[member].slow = slow

    @rule(member=st.sampled_from(IDS), epoch=st.sampled_from([-1, -2]))
    def leave(self, member: str, epoch: int) -> None:
        client = self.clients.pop(member, None)
        if client is not None and (epoch == -1 or client.instance is not None):
            self.shard.beat(member, epoch, instance_id=client.instance)

    @rule(member=st.sampled_from(IDS), wishes=st.sampled_from(WISHES))
    def change(self, member: str, wishes: dict[str, Any]) -> None:
        """A member subscribes to something else."""
        client = self.clients.get(member)
        if client is not None and client.epoch > 0:
            client.wishes = {"subscribed_topic_names": [], "subscribed_topic_regex": "", **wishes}
            answer = self.shard.beat(member, client.epoch, instance_id=client.instance, **client.wishes)
            if not hasattr(answer, "code"):
                client.take(answer)

    @rule(member=st.sampled_from(IDS))
    def lose_answer(self, member: str) -> None:
        """The member never hears the answer, and tells all when it asks again."""
        client = self.clients.get(member)
        if client is not None:
            before = client.epoch, client.has
            client.beat()
            client.epoch, client.has = before
            client.lost = True

    @rule(member=st.sampled_from(IDS))
    def repeat(self, member: str) -> None:
        """A heartbeat comes twice."""
        if member in self.clients:
            self.clients[member].repeat()

    @rule(member=st.sampled_from(IDS))
    def restart(self, member: str) -> None:
        """A member begins again under its own id while the group still counts it as present."""
        if member in self.clients:
            self.clients[member].restart()

    @rule(member=st.sampled_from(IDS), epoch=st.integers(-3, 9))
    def say_anything(self, member: str, epoch: int) -> None:
        if member not in self.clients and epoch > 0:
            self.shard.beat(member, epoch)

    @rule(name=st.sampled_from(["t", "u"]), count=st.integers(0, 4))
    def topics(self, name: str, count: int) -> None:
        if count == 0 or count > self.shard.topics.get(name, 0):
            self.shard.tell(**{name: count})

    @rule(ms=st.sampled_from([1_000, 4_000, 9_000]))
    def wait(self, ms: int) -> None:
        self.shard.advance(ms)

    @rule()
    def reload(self) -> None:
        self.shard.reload()

    @rule()
    def delete(self) -> None:
        self.shard.request(DeleteGroupsRequest(["g"]), 2)

    @precondition(lambda self: not self.shard.failing)
    @rule(member=st.sampled_from(IDS))
    def fail(self, member: str) -> None:
        """A heartbeat, or a time that comes, while the log takes nothing."""
        self.shard.failing = True
        self.beat(member)
        self.shard.advance(500)
        self.shard.failing = False

    @rule()
    def calm_down(self) -> None:
        """Everyone who is there behaves: all that is wanted is held once, and nobody waits."""
        for client in self.clients.values():
            client.slow = False
        for _ in range(4):
            settle(*self.clients.values(), rounds=4)
            self.shard.advance(4_000)
        settle(*self.clients.values(), rounds=4)
        group = self.shard.machine.modern.groups.get("g")
        if group is None:
            return
        for member_id, client in self.clients.items():
            if client.beat() is not ErrorCode.NONE:
                continue
            assert group.is_reconciled(member_id), f"{member_id} waits for ever"
            target = {(topic, index) for topic, indexes in group.target.get(member_id, {}).items() for index in indexes}
            assert client.places() == target
            assert client.epoch == group.target_epoch == group.epoch

    @invariant()
    def nothing_has_two_owners(self) -> None:
        self.shard.machine.check()
        for group in self.shard.machine.modern.groups.values():
            shares = [
                (topic, index)
                for share in group.target.values()
                for topic, indexes in share.items()
                for index in indexes
            ]
            assert len(shares) == len(set(shares)), "a target with two owners"

    @invariant()
    def clients_do_not_share(self) -> None:
        """What a living member of the group works on, no other does."""
        group = self.shard.machine.modern.groups.get("g")
        if group is None:
            return
        held: set[tuple[bytes, int]] = set()
        for member_id, client in self.clients.items():
            if member_id in group.members and client.epoch > 0 and client.epoch == group.has(member_id).epoch:
                assert not held & client.places()
                held |= client.places()

    @invariant()
    def log_is_the_state(self) -> None:
        live = self.shard.machine
        for other in (self.shard.replayed(), self.shard.compacted()):
            assert other.modern.groups == live.modern.groups
            assert other.classic.stored == live.classic.stored


TestStories = Stories.TestCase
TestStories.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)

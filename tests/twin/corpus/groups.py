"""The classic group protocol, by the book and in the wrong state."""

from __future__ import annotations

from dataclasses import dataclass
from time import sleep
from typing import Any

from ..peer import Connection
from ..specs import Message
from ..tale import POLL_PAUSE_S, Tale, case

SUBSCRIPTION = b"\0\0" + b"\0\0\0\0" + b"\xff\xff\xff\xff"
"""A consumer's subscription to nothing. (Kafka 4.3.1 allocates what four bytes of rubbish in its place claim.)"""
RANGE = [{"name": "range", "metadata": SUBSCRIPTION}]
TWO = [{"name": "cooperative", "metadata": SUBSCRIPTION}, {"name": "range", "metadata": SUBSCRIPTION}]


@dataclass(slots=True)
class Member:
    """One member on a connection of its own."""

    t: Tale
    group: str
    on: Connection
    version: int = 5
    id: str = ""
    generation: int = -1
    instance: str | None = None
    session_ms: int = 30000
    rebalance_ms: int = 30000

    def join_fields(self, protocols: list[Message] | None = None, **more: Any) -> Message:
        fields = {
            "group_id": self.group,
            "session_timeout_ms": self.session_ms,
            "rebalance_timeout_ms": self.rebalance_ms,
            "member_id": self.id,
            "protocol_type": "consumer",
            "protocols": RANGE if protocols is None else protocols,
        }
        if self.version >= 5:
            fields["group_instance_id"] = self.instance
        return {**fields, **more}

    def joined(self, answer: Message) -> Message:
        if answer.get("member_id"):
            self.id = answer["member_id"]
        if answer.get("error_code") == 0:
            self.generation = answer["generation_id"]
        return answer

    def join(self, protocols: list[Message] | None = None, **more: Any) -> Message:
        return self.joined(self.t.ask("JoinGroup", self.version, on=self.on, **self.join_fields(protocols, **more)))

    def enter(self, protocols: list[Message] | None = None, **more: Any) -> Message:
        """Join, and again with the id that was given."""
        answer = self.join(protocols, **more)
        return self.join(protocols, **more) if answer.get("error_code") == 79 else answer

    def send_join(self, protocols: list[Message] | None = None, **more: Any) -> None:
        self.on.send("JoinGroup", self.version, **self.join_fields(protocols, **more))

    def receive_join(self, title: str) -> Message:
        answer = self.joined(self.on.receive())
        self.t.note(title, answer)
        return answer

    def sync_fields(self, assignments: dict[str, bytes] | None = None, **more: Any) -> Message:
        rows = [{"member_id": who, "assignment": data} for who, data in (assignments or {}).items()]
        fields: Message = {
            "group_id": self.group,
            "generation_id": self.generation,
            "member_id": self.id,
            "assignments": rows,
        }
        return {**fields, **more}

    def sync(self, assignments: dict[str, bytes] | None = None, version: int = 3, **more: Any) -> Message:
        return self.t.ask("SyncGroup", version, on=self.on, **self.sync_fields(assignments, **more))

    def beat(self, version: int = 3, **more: Any) -> Message:
        fields = {"group_id": self.group, "generation_id": self.generation, "member_id": self.id, **more}
        return self.t.ask("Heartbeat", version, on=self.on, **fields)

    def leave(self, version: int = 2, **more: Any) -> Message:
        fields: Message = {"group_id": self.group}
        if version < 3:
            fields["member_id"] = self.id
        else:
            fields["members"] = [{"member_id": self.id, "group_instance_id": self.instance}]
        return self.t.ask("LeaveGroup", version, on=self.on, **{**fields, **more})

    def await_rebalance(self) -> None:
        """Beat, unrecorded, until the coordinator says that a rebalance is on."""
        for _ in range(3000):
            fields = {"group_id": self.group, "generation_id": self.generation, "member_id": self.id}
            if self.t.quiet("Heartbeat", 3, on=self.on, **fields)["error_code"] == 27:
                return
            sleep(POLL_PAUSE_S)
        raise AssertionError("no rebalance")


def member(t: Tale, short: str = "g", **more: Any) -> Member:
    return Member(t, t.name(short), t.another(), **more)


def stable(t: Tale, short: str = "g", **more: Any) -> Member:
    """A group of one member that has its assignment."""
    one = member(t, short, **more)
    one.enter()
    one.sync({one.id: b"mine"})
    return one


def describe(t: Tale, *groups: str, version: int = 5) -> None:
    t.ask("DescribeGroups", version, groups=list(groups))


@case("find-coordinator", versions="FindCoordinator")
def find_coordinator(t: Tale, version: int) -> None:
    if version < 4:
        for kind in (0, 1, 2, 3, 9, -1) if version else (0,):
            for key in (t.name("g"), "", "x" * 300):
                if (kind, key) != (1, t.name("g")):
                    t.ask("FindCoordinator", version, key=key, key_type=kind)
        return
    for kind in (0, 2, 3, 9, -1):
        t.ask("FindCoordinator", version, key_type=kind, coordinator_keys=[t.name("g"), t.name("h"), t.name("g")])
        t.ask("FindCoordinator", version, key_type=kind, coordinator_keys=[""])
        t.ask("FindCoordinator", version, key_type=kind, coordinator_keys=[])
    t.ask("FindCoordinator", version, key_type=1, coordinator_keys=[""])


@case("find-transaction-coordinator")
def find_transaction_coordinator(t: Tale) -> None:
    t.ask("FindCoordinator", 3, key=t.name("x"), key_type=1)
    t.ask("FindCoordinator", 4, key_type=1, coordinator_keys=[t.name("x"), t.name("y")])


@case("join-group", versions="JoinGroup")
def join_group(t: Tale, version: int) -> None:
    """One member, through all states, in one version of JoinGroup."""
    one = member(t, version=version)
    describe(t, one.group)
    one.join()
    one.join()
    describe(t, one.group)
    one.beat()
    one.sync({one.id: b"all"})
    one.sync()
    one.beat()
    describe(t, one.group)
    one.join()
    one.sync()
    one.join(TWO)
    one.sync({one.id: b"other"})
    one.leave()
    describe(t, one.group)


@case("join-group-bad", versions=(0, 3, 5, 9))
def join_group_bad(t: Tale, version: int) -> None:
    def attempt(short: str, protocols: list[Message] | None = None, **more: Any) -> None:
        member(t, short, version=version).join(protocols, **more)

    attempt("g", group_id="")
    attempt("g", session_timeout_ms=5999)
    attempt("g", session_timeout_ms=6000)
    attempt("h", session_timeout_ms=1800000)
    attempt("g", session_timeout_ms=1800001)
    attempt("g", session_timeout_ms=-1)
    attempt("i", rebalance_timeout_ms=0)
    attempt("j", [])
    attempt("k", protocol_type="")
    attempt("l", protocol_type="connect")
    attempt("m", member_id="who")
    attempt("n", [{"name": "", "metadata": SUBSCRIPTION}])


@case("join-group-inconsistent", versions=(1, 5, 9))
def join_group_inconsistent(t: Tale, version: int) -> None:
    """A second member must speak a protocol that all speak."""
    stable(t, version=version)
    for more in ({"protocol_type": "connect"}, {"protocol_type": ""}, {"protocols": []}):
        member(t, version=version).enter(**more)
    member(t, version=version).enter([{"name": "other", "metadata": SUBSCRIPTION}])
    member(t, version=version).join(member_id="unknown-member")


VOTES = (
    ("a", "b"),
    ("b", "a"),
    ("range", "cooperative-sticky"),
    ("cooperative-sticky", "range"),
    ("roundrobin", "range"),
    ("sticky", "roundrobin"),
    ("RoundRobinAssigner", "copartition"),
    ("\u00fc", "\U0001f600"),
)


@case("join-group-votes")
def join_group_votes(t: Tale) -> None:
    """Two members whose first choices differ: of as many votes the same protocol wins, whoever was first."""
    for number, (first, second) in enumerate(VOTES):
        mine = [{"name": name, "metadata": SUBSCRIPTION} for name in (first, second)]
        one, two = (member(t, f"g{number}", version=3) for _ in range(2))
        one.join(mine)
        one.sync({one.id: b""})
        two.send_join(mine[::-1])
        one.await_rebalance()
        one.join(mine)
        two.receive_join(f"{first} or {second}")


@case("two-members", versions=(0, 1, 4, 5, 7, 9))
def two_members(t: Tale, version: int) -> None:
    """Join, rebalance, assignment by the leader, leave, and the rest rebalances again."""
    t.create("a")
    one = stable(t, version=version)
    two = member(t, version=version)
    first = {}
    if version >= 4:
        first = two.join(TWO)
    two.send_join(TWO)
    t.note("a member id is needed first", first.get("error_code"))
    one.await_rebalance()
    one.beat()
    one.sync()
    t.ask("OffsetCommit", 6, **_commit(t, one, 5))
    one.join(TWO)
    two.receive_join("two has joined")
    describe(t, one.group)
    two.on.send("SyncGroup", 3, **two.sync_fields())
    one.sync({one.id: b"left", two.id: b"right"})
    t.note("two's part", two.on.receive())
    describe(t, one.group)
    one.beat(generation_id=one.generation - 1)
    one.beat(generation_id=one.generation + 1)
    one.leave()
    two.await_rebalance()
    two.join(TWO)
    two.sync({two.id: b"everything"})
    describe(t, one.group)
    one.beat()
    one.sync()


def _commit(t: Tale, who: Member, offset: int, **more: Any) -> Message:
    rows = [{"partition_index": 0, "committed_offset": offset, "committed_metadata": "m"}]
    fields: Message = {"generation_id_or_member_epoch": who.generation, "member_id": who.id}
    return {"group_id": who.group, "topics": [{"name": t.name("a"), "partitions": rows}], **fields, **more}


@case("sync-group", versions="SyncGroup")
def sync_group(t: Tale, version: int) -> None:
    one = member(t)
    one.enter()
    one.sync({one.id: b"x"}, version, generation_id=0)
    one.sync({one.id: b"x"}, version, generation_id=7)
    one.sync({one.id: b"x"}, version, member_id="nobody")
    one.sync({one.id: b"x"}, version, group_id="")
    one.sync({one.id: b"x"}, version, group_id=t.name("none"))
    if version >= 3:
        one.sync({one.id: b"x"}, version, group_instance_id="nobody")
    if version >= 5:
        one.sync({one.id: b"x"}, version, protocol_type="connect", protocol_name="range")
        one.sync({one.id: b"x"}, version, protocol_type="consumer", protocol_name="other")
        one.sync({one.id: b"x"}, version, protocol_type="consumer", protocol_name="range")
    one.sync({one.id: b"x", "stranger": b"y"}, version)
    one.sync({one.id: b"again"}, version)


@case("sync-group-nothing")
def sync_group_nothing(t: Tale) -> None:
    """The leader gives no assignment: everyone's is empty."""
    one = member(t)
    one.enter()
    one.sync()
    one.sync()
    describe(t, one.group)


@case("heartbeat", versions="Heartbeat")
def heartbeat(t: Tale, version: int) -> None:
    one = member(t)
    one.beat(version, member_id="nobody", generation_id=1)
    one.enter()
    one.beat(version)
    one.sync({one.id: b"x"})
    one.beat(version)
    one.beat(version, generation_id=0)
    one.beat(version, generation_id=2)
    one.beat(version, generation_id=-1)
    one.beat(version, member_id="nobody")
    one.beat(version, member_id="")
    one.beat(version, group_id="")
    one.beat(version, group_id=t.name("none"))
    if version >= 3:
        one.beat(version, group_instance_id="nobody")


@case("leave-group", versions="LeaveGroup")
def leave_group(t: Tale, version: int) -> None:
    one = stable(t)
    one.leave(version, group_id="")
    one.leave(version, group_id=t.name("none"))
    if version < 3:
        one.leave(version, member_id="nobody")
        one.leave(version, member_id="")
    else:
        rows = [{"member_id": "nobody", "group_instance_id": None}, {"member_id": "", "group_instance_id": "i"}]
        one.leave(version, members=rows)
        one.leave(version, members=[])
        one.leave(version, members=[{"member_id": one.id, "group_instance_id": "i"}])
        one.leave(version, members=[{"member_id": one.id, "group_instance_id": None}, rows[0]])
        one.enter()
    one.leave(version)
    one.leave(version)
    describe(t, one.group)


@case("static-members", versions=(5, 7, 9))
def static_members(t: Tale, version: int) -> None:
    """A static member comes back with its instance id: no rebalance, the old id is fenced."""
    one = member(t, version=version, instance="i-1")
    one.join()
    one.sync({one.id: b"static"}, group_instance_id="i-1")
    describe(t, one.group)
    old = one.id
    again = member(t, version=version, instance="i-1")
    again.join()
    t.note("a new id", again.id != old)
    again.sync(group_instance_id="i-1")
    describe(t, one.group)
    one.beat(member_id=old, group_instance_id="i-1")
    one.sync(member_id=old, group_instance_id="i-1")
    one.join(member_id=old)
    again.beat(group_instance_id="i-1")
    again.beat(group_instance_id="i-2")
    t.ask("OffsetCommit", 7, **_commit(t, one, 1, member_id=old, group_instance_id="i-1"))
    again.join(TWO, member_id="")
    again.sync({again.id: b"x"}, group_instance_id="i-1")
    again.leave(4, members=[{"member_id": "", "group_instance_id": "i-1"}])
    again.leave(4, members=[{"member_id": "", "group_instance_id": "i-1"}])
    describe(t, one.group)


@case("session-timeout")
def session_timeout(t: Tale) -> None:
    """Unknown to all: a member that was given an id and never came back has none."""
    one = member(t)
    one.join()
    t.ask("Heartbeat", 3, on=one.on, group_id=one.group, generation_id=0, member_id=one.id)
    describe(t, one.group)
    one.leave()
    one.join()


@case("offset-commit", versions="OffsetCommit")
def offset_commit(t: Tale, version: int) -> None:
    """By a member and by none, good and bad."""
    topic_id = t.create("a", 2)
    one = stable(t)

    def commit(*rows: tuple[int, int], who: Member = one, name: str | None = None, **more: Any) -> None:
        parts: list[Message] = []
        for index, offset in rows:
            row: Message = {"partition_index": index, "committed_offset": offset, "committed_metadata": f"m{offset}"}
            parts.append(row)
        topic: Message = {"partitions": parts}
        if version >= 10:
            topic["topic_id"] = topic_id
        else:
            topic["name"] = t.name("a") if name is None else name
        body = {**_commit(t, who, 0), "topics": [topic], **more}
        t.ask("OffsetCommit", version, on=one.on, **body)

    alone = Member(t, t.name("alone"), t.main)
    commit((0, 5))
    commit((0, 3), (1, 7))
    commit((9, 1), (-1, 1))
    commit((0, -1))
    commit((0, -2))
    commit((0, 2**62))
    commit()
    commit((0, 1), generation_id_or_member_epoch=one.generation + 1)
    commit((0, 1), generation_id_or_member_epoch=0)
    commit((0, 1), generation_id_or_member_epoch=-1)
    commit((0, 1), generation_id_or_member_epoch=-1, member_id="")
    commit((0, 1), member_id="nobody")
    commit((0, 11), who=alone)
    commit((0, 11), who=alone, generation_id_or_member_epoch=3)
    commit((0, 11), who=alone, member_id="x")
    commit((0, 11), who=alone, group_id="")
    if version >= 7:
        commit((0, 1), group_instance_id="stranger")
    if version < 10:
        commit((0, 1), name=t.name("none"))
        commit((0, 1), name="a/b")
        commit((0, 1), name="")
    for group in (one.group, alone.group):
        t.ask("OffsetFetch", 7, group_id=group, topics=None)


@case("offset-commit-metadata")
def offset_commit_metadata(t: Tale) -> None:
    t.create("a")
    for size in (4096, 4097, 1 << 20):
        rows = [{"partition_index": 0, "committed_offset": size, "committed_metadata": "x" * min(size, 32000)}]
        if size > 32000:
            rows[0]["committed_metadata"] = "y" * size
        topics = [{"name": t.name("a"), "partitions": rows}]
        t.ask("OffsetCommit", 9, group_id=t.name("g"), generation_id_or_member_epoch=-1, topics=topics)
    rows = [{"partition_index": 0, "committed_offset": 7, "committed_metadata": None, "committed_leader_epoch": 3}]
    topics = [{"name": t.name("a"), "partitions": rows}]
    t.ask("OffsetCommit", 9, group_id=t.name("h"), generation_id_or_member_epoch=-1, topics=topics)
    t.ask("OffsetFetch", 7, group_id=t.name("g"), topics=None)
    t.ask("OffsetFetch", 7, group_id=t.name("h"), topics=None)


@case("offset-commit-retention", versions=(2, 3, 4))
def offset_commit_retention(t: Tale, version: int) -> None:
    t.create("a")
    rows = [{"partition_index": 0, "committed_offset": 7, "committed_metadata": "m"}]
    topics = [{"name": t.name("a"), "partitions": rows}]
    for retention in (-1, 0, 1, 600000):
        t.ask(
            "OffsetCommit",
            version,
            group_id=t.name("g"),
            generation_id_or_member_epoch=-1,
            retention_time_ms=retention,
            topics=topics,
        )


@case("offset-fetch", versions="OffsetFetch")
def offset_fetch(t: Tale, version: int) -> None:
    topic_id = t.create("a", 2)
    who = Member(t, t.name("g"), t.main)
    for group in ("g", "h"):
        body = _commit(t, who, 5, group_id=t.name(group))
        t.quiet("OffsetCommit", 8, **body)

    def one(group: str, *topics: tuple[str, list[int]], everything: bool = False, **more: Any) -> None:
        rows: list[Message] | None = [{"name": name, "partition_indexes": indexes} for name, indexes in topics]
        if everything:
            rows = None
        if version < 8:
            t.ask("OffsetFetch", version, group_id=group, topics=rows, **more)
            return
        for row in rows or ():
            if version >= 10:
                row["topic_id"] = topic_id
                del row["name"]
        t.ask("OffsetFetch", version, groups=[{"group_id": group, "topics": rows}], **more)

    g, a = t.name("g"), t.name("a")
    one(g, (a, [0, 1]))
    one(g, (a, [9, -1, 0]))
    one(g, (a, []))
    one(g)
    one("", (a, [0]))
    one(t.name("never"), (a, [0]))
    if version >= 2:
        one(g, everything=True)
        one(t.name("never"), everything=True)
        one("", everything=True)
    if version < 10:
        one(g, (t.name("none"), [0]), (a, [0]))
        one(g, ("a/b", [0]))
    if version >= 7:
        one(g, (a, [0]), require_stable=True)
    if version >= 8:
        rows = [{"group_id": t.name(x), "topics": None} for x in ("g", "h", "never")]
        t.ask("OffsetFetch", version, groups=rows)
        t.ask("OffsetFetch", version, groups=[])
        t.ask("OffsetFetch", version, groups=[rows[0], rows[0]])
    if version >= 9:
        for member_id, epoch in (("x", 1), ("", -1), (None, -1), (None, 5)):
            t.ask("OffsetFetch", version, groups=[{**rows[0], "member_id": member_id, "member_epoch": epoch}])


@case("offset-delete")
def offset_delete(t: Tale) -> None:
    t.create("a", 3)
    one = stable(t)
    who = Member(t, t.name("idle"), t.main)
    for index in (0, 1, 2):
        for group, m in ((who.group, who), (one.group, one)):
            body = _commit(t, m, 5, group_id=group)
            body["topics"][0]["partitions"][0]["partition_index"] = index
            t.quiet("OffsetCommit", 8, **body)

    def delete(group: str, *rows: tuple[str, list[int]]) -> None:
        topics = [{"name": n, "partitions": [{"partition_index": i} for i in indexes]} for n, indexes in rows]
        t.ask("OffsetDelete", 0, group_id=group, topics=topics)

    a = t.name("a")
    delete(who.group, (a, [0, 1]))
    delete(who.group, (a, [0, 9, -1]))
    delete(who.group, (t.name("none"), [0]))
    delete(who.group)
    delete(one.group, (a, [0]))
    delete(t.name("never"), (a, [0]))
    delete("", (a, [0]))
    t.ask("OffsetFetch", 7, group_id=who.group, topics=None)
    t.ask("OffsetFetch", 7, group_id=one.group, topics=None)
    delete(who.group, (a, [2]))
    describe(t, who.group)


@case("offset-delete-subscribed")
def offset_delete_subscribed(t: Tale) -> None:
    """Offsets of a topic that a consumer of the group subscribes to stay."""
    t.create("a", 2)
    t.create("b", 2)
    name = t.name("a").encode()
    subscription = b"\0\0" + b"\0\0\0\1" + len(name).to_bytes(2, "big") + name + b"\xff\xff\xff\xff"
    one = member(t)
    one.enter([{"name": "range", "metadata": subscription}])
    one.sync({one.id: b""})
    for short in "ab":
        body = _commit(t, one, 5)
        body["topics"][0]["name"] = t.name(short)
        t.ask("OffsetCommit", 8, **body)
    rows = [{"name": t.name(s), "partitions": [{"partition_index": 0}]} for s in "ab"]
    t.ask("OffsetDelete", 0, group_id=one.group, topics=rows)
    t.ask("OffsetFetch", 7, group_id=one.group, topics=None)


@case("describe-groups", versions="DescribeGroups")
def describe_groups(t: Tale, version: int) -> None:
    one = stable(t)
    t.ask("DescribeGroups", version, groups=[one.group, t.name("none"), "", one.group])
    t.ask("DescribeGroups", version, groups=[])
    if version >= 3:
        t.ask("DescribeGroups", version, groups=[one.group, t.name("none")], include_authorized_operations=True)
    who = Member(t, t.name("simple"), t.main)
    t.quiet("OffsetCommit", 8, **_commit(t, who, 5))
    t.ask("DescribeGroups", version, groups=[who.group])


@case("list-groups", versions="ListGroups")
def list_groups(t: Tale, version: int) -> None:
    stable(t, "stable")
    empty = stable(t, "empty")
    empty.leave()
    joining = member(t, "syncing")
    joining.enter()
    t.create("a")
    t.quiet("OffsetCommit", 8, **_commit(t, Member(t, t.name("simple"), t.main), 5))

    def listed(**filters: Any) -> None:
        answer = t.quiet("ListGroups", version, **filters)
        answer["groups"] = [group for group in answer["groups"] if group["group_id"].startswith(t.slug)]
        t.note(f"{filters}", answer)

    listed()
    if version >= 4:
        for states in (["Stable"], ["Empty", "stable"], ["CompletingRebalance"], ["PreparingRebalance"], ["Nonsense"]):
            listed(states_filter=states)
        listed(states_filter=["Dead"])
    if version >= 5:
        for types in (["classic"], ["Classic"], ["consumer"], ["share"], ["nonsense"]):
            listed(types_filter=types)


@case("delete-groups", versions="DeleteGroups")
def delete_groups(t: Tale, version: int) -> None:
    t.create("a")
    one = stable(t, "busy")
    gone = stable(t, "gone")
    t.quiet("OffsetCommit", 8, **_commit(t, gone, 5))
    gone.leave()
    t.quiet("OffsetCommit", 8, **_commit(t, Member(t, t.name("simple"), t.main), 5))

    def delete(*names: str) -> None:
        t.ask("DeleteGroups", version, groups_names=list(names))

    delete(one.group, gone.group, t.name("none"), "")
    delete(t.name("simple"), t.name("simple"))
    delete()
    describe(t, gone.group, t.name("simple"))
    t.ask("OffsetFetch", 7, group_id=gone.group, topics=None)
    delete(gone.group)
    again = member(t, "gone")
    again.enter()


@case("deleted-topic-offsets")
def deleted_topic_offsets(t: Tale) -> None:
    """Offsets go with their topic, and a topic made again starts without."""
    t.create("a")
    t.create("b")
    who = Member(t, t.name("g"), t.main)
    for short in "ab":
        body = _commit(t, who, 5)
        body["topics"][0]["name"] = t.name(short)
        t.ask("OffsetCommit", 8, **body)
    t.quiet("DeleteTopics", 5, topic_names=[t.name("a")], timeout_ms=30000)
    t.wait_gone(t.name("a"))
    t.create("a")
    for _ in range(3000):
        answer = t.quiet("OffsetFetch", 7, group_id=who.group, topics=None)
        if len(answer["topics"]) == 1:
            break
    t.note("left", answer)


@case("rebalance-timeout", versions=(5, 9))
def rebalance_timeout(t: Tale, version: int) -> None:
    """Who does not join again in time is out, unless it is static; then who does not ask for its assignment."""
    one, two = (member(t, version=version, rebalance_ms=700) for _ in range(2))
    three = member(t, version=version, rebalance_ms=700, instance="i-3")
    one.enter()
    one.sync({one.id: b"all"})
    two.join()
    two.send_join()
    one.await_rebalance()
    one.join()
    two.receive_join("two has joined")
    one.sync({one.id: b"left", two.id: b"right"})
    two.sync()
    three.send_join()
    one.await_rebalance()
    one.join()
    three.receive_join("three has joined, and two has not again")
    two.beat()
    three.on.send("SyncGroup", 3, **three.sync_fields(group_instance_id="i-3"))
    one.sync({one.id: b"left", three.id: b"right"})
    t.note("three's part", three.on.receive())
    describe(t, one.group)
    one.join(TWO)
    describe(t, one.group)
    one.sync({one.id: b"all", three.id: b"some"})
    one.await_rebalance()
    three.beat(group_instance_id="i-3")
    describe(t, one.group)
    one.join()
    one.sync({one.id: b"all"})
    describe(t, one.group)


@case("static-members-parked", versions=(5, 9))
def static_members_parked(t: Tale, version: int) -> None:
    """An instance is taken over while the one who had it waits to join, or for its assignment."""
    one = stable(t, version=version)
    old, new, newest = (member(t, version=version, instance="i-1") for _ in range(3))
    old.send_join()
    one.await_rebalance()
    new.send_join()
    old.receive_join("the old one is fenced")
    one.join()
    new.receive_join("the new one has joined")
    new.on.send("SyncGroup", 3, **new.sync_fields(group_instance_id="i-1"))
    newest.send_join()
    t.note("the new one's assignment", new.on.receive())
    one.sync({one.id: b"x"})
    one.beat()
    one.join()
    newest.receive_join("the newest has joined")
    one.sync({one.id: b"left", newest.id: b"right"})
    newest.sync(group_instance_id="i-1")
    describe(t, one.group)
    rows = [{"member_id": newest.id, "group_instance_id": None}, {"member_id": newest.id, "group_instance_id": "i-2"}]
    one.leave(5, members=[*rows, {"member_id": one.id, "group_instance_id": "i-1"}])
    describe(t, one.group)

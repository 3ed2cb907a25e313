"""Raw members of groups: how fast a group of many settles, and what heartbeats and commits cost the server.

A process of its own (`python -m tools.benchmarks.groups MODE`), one thread, many sockets, so that its CPU is not the
server's nor the bench's. Members do as real ones do, but for reading records. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import resource
import selectors
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from logd.wire.codec import decode_exact, encode
from logd.wire.frames import decode_response, request_bytes
from logd.wire.message import Message
from logd.wire.schemas.consumer_group_heartbeat import (
    ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatRequestTopicPartitions,
)
from logd.wire.schemas.consumer_protocol import (
    ConsumerProtocolAssignment,
    ConsumerProtocolAssignmentTopicPartition,
    ConsumerProtocolSubscription,
)
from logd.wire.schemas.find_coordinator import FindCoordinatorRequest
from logd.wire.schemas.heartbeat import HeartbeatRequest
from logd.wire.schemas.join_group import JoinGroupRequest, JoinGroupRequestProtocol
from logd.wire.schemas.metadata import MetadataRequest, MetadataRequestTopic
from logd.wire.schemas.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
)
from logd.wire.schemas.sync_group import SyncGroupRequest, SyncGroupRequestAssignment
from tools.benchmarks import procfs
from tools.benchmarks.generator import Flow, connect, drive, receive_frame

JOIN, HEARTBEAT, SYNC, FIND, COMMIT, METADATA, MODERN = 11, 12, 14, 10, 8, 3, 68
VERSIONS = {JOIN: 5, HEARTBEAT: 3, SYNC: 3, FIND: 2, COMMIT: 8, METADATA: 9, MODERN: 1}
REBALANCING, MEMBER_ID_REQUIRED = 27, 79
NOT_YET = (14, 15, 16)
"""The coordinator loads, is not there, is not this one."""
SESSION_MS, REBALANCE_MS = 30_000, 60_000
PATIENCE_S = 60.0
AT_ONCE = 50
"""So many groups come into being at the same time."""


class BenchFailed(Exception):
    """The server did something else than the bench expects."""


def ask(sock: socket.socket, key: int, message: Message) -> Any:
    """One request and its answer, blocking."""
    sock.sendall(request_bytes(key, VERSIONS[key], 1, "logd-bench", message))
    return decode_response(key, VERSIONS[key], memoryview(receive_frame(sock)))[1]


def find_coordinator(sock: socket.socket, group: str) -> None:
    """Wait until the group has a coordinator that has read its groups: Kafka names one before."""
    end = time.monotonic() + PATIENCE_S

    def serves() -> bool:
        if ask(sock, FIND, FindCoordinatorRequest(group)).error_code:
            return False
        answer = ask(sock, HEARTBEAT, HeartbeatRequest(group, 0, "nobody"))
        return answer.error_code not in NOT_YET

    while not serves():
        if time.monotonic() > end:
            raise BenchFailed("there is no group coordinator")
        time.sleep(0.1)


class Member(ABC):
    """One member and its connection; `received` takes an answer and says what to send next."""

    def __init__(self, address: tuple[str, int], group: str, topic: str, name: str) -> None:
        self.sock = connect(*address)
        self.group, self.topic, self.name = group, topic, name
        self.member_id, self.epoch = "", 0
        self.owned: dict[bytes, list[int]] = {}
        self.settled = False
        self.due = 0.0
        self.key = 0
        self.requests = 0
        self._buffer = b""

    def send(self, key: int, message: Message) -> None:
        """A request; there is one at a time."""
        self.key = key
        self.requests += 1
        self.sock.sendall(request_bytes(key, VERSIONS[key], 1, self.name, message))

    def answers(self) -> list[Any]:
        """What has come: nothing, or the answer to the one request."""
        self._buffer += self.sock.recv(1 << 16)
        size = int.from_bytes(self._buffer[:4], "big")
        if len(self._buffer) < 4 or len(self._buffer) < 4 + size:
            return []
        frame, self._buffer = memoryview(self._buffer[4 : 4 + size]), self._buffer[4 + size :]
        return [decode_response(self.key, VERSIONS[self.key], frame)[1]]

    @property
    def count(self) -> int:
        """How many partitions it has."""
        return sum(len(indexes) for indexes in self.owned.values())

    @abstractmethod
    def start(self) -> None:
        """Ask to be let into the group, or in again."""

    @abstractmethod
    def beat(self) -> None:
        """Send a heartbeat."""

    @abstractmethod
    def received(self, answer: Any) -> None:
        """Take an answer in, and send what comes next."""


class ClassicMember(Member):
    """Joins, syncs, sends heartbeats; as a leader it deals the partitions out."""

    partitions = 0

    def start(self) -> None:
        self.settled = False
        metadata = b"\0\0" + encode(ConsumerProtocolSubscription([self.topic]), 0)
        protocols = [JoinGroupRequestProtocol("range", metadata)]
        self.send(
            JOIN, JoinGroupRequest(self.group, SESSION_MS, REBALANCE_MS, self.member_id, None, "consumer", protocols)
        )

    def beat(self) -> None:
        self.send(HEARTBEAT, HeartbeatRequest(self.group, self.epoch, self.member_id))

    def received(self, answer: Any) -> None:
        code = answer.error_code
        if self.key == JOIN and code in (0, MEMBER_ID_REQUIRED):
            self.member_id = answer.member_id
            if code:
                self.start()
                return
            self.epoch = answer.generation_id
            self.send(SYNC, SyncGroupRequest(self.group, self.epoch, self.member_id, assignments=self._deal(answer)))
        elif code == REBALANCING:
            self.start()
        elif code:
            raise BenchFailed(f"{self.name}: error {code} to request {self.key}")
        elif self.key == SYNC:
            data = answer.assignment
            told = decode_exact(ConsumerProtocolAssignment, 0, data, 2) if data else ConsumerProtocolAssignment()
            self.owned = {each.topic.encode(): each.partitions for each in told.assigned_partitions}
            self.settled = True

    def _deal(self, joined: Any) -> list[SyncGroupRequestAssignment]:
        members = [each.member_id for each in joined.members]
        given = []
        for place, member_id in enumerate(members):
            mine = list(range(place, self.partitions, len(members)))
            parts = [ConsumerProtocolAssignmentTopicPartition(self.topic, mine)]
            given.append(SyncGroupRequestAssignment(member_id, b"\0\0" + encode(ConsumerProtocolAssignment(parts), 0)))
        return given


class ModernMember(Member):
    """Heartbeats of the consumer protocol; gives up at once what it is to give up."""

    told: dict[bytes, list[int]] | None = None

    def start(self) -> None:
        self.member_id = self.name
        self.send(
            MODERN,
            ConsumerGroupHeartbeatRequest(
                self.group,
                self.member_id,
                0,
                rebalance_timeout_ms=REBALANCE_MS,
                subscribed_topic_names=[self.topic],
                topic_partitions=[],
            ),
        )

    def beat(self) -> None:
        """It says what it has only when that is not what it said last, as real ones do."""
        owned = None
        if self.told != self.owned:
            owned = [ConsumerGroupHeartbeatRequestTopicPartitions(*each) for each in self.owned.items()]
            self.told = dict(self.owned)
        request = ConsumerGroupHeartbeatRequest(self.group, self.member_id, self.epoch, topic_partitions=owned)
        self.send(MODERN, request)

    def received(self, answer: Any) -> None:
        if answer.error_code:
            raise BenchFailed(f"{self.name}: {answer.error_code} {answer.error_message}")
        self.epoch = answer.member_epoch
        if answer.assignment is not None:
            self.owned = {each.topic_id: each.partitions for each in answer.assignment.topic_partitions}
        self.settled = True


def serve(members: list[Member], every_s: float, done: Callable[[], bool], until: float) -> None:
    """Answer for all members, with heartbeats in between, until `done`."""
    selector = selectors.DefaultSelector()
    for member in members:
        selector.register(member.sock, selectors.EVENT_READ, member)
    waiting = {id(member) for member in members}
    while not done():
        now = time.monotonic()
        if now > until:
            raise BenchFailed("the group did not settle in time")
        for member in members:
            if id(member) not in waiting and member.due <= now:
                waiting.add(id(member))
                member.beat()
        soonest = min((member.due for member in members if id(member) not in waiting), default=now + 0.1)
        for key, _ in selector.select(max(soonest - now, 0)):
            member = key.data
            for answer in member.answers():
                waiting.discard(id(member))
                sent = member.requests
                member.received(answer)
                if member.requests == sent:
                    member.due = time.monotonic() + every_s
                else:
                    waiting.add(id(member))


def join(options: argparse.Namespace, address: tuple[str, int]) -> dict[str, float]:
    """From the last join to all assigned."""
    made = ClassicMember if options.protocol == "classic" else ModernMember
    ClassicMember.partitions = options.partitions
    members: list[Member] = [
        made(address, options.group, options.topic, f"member-{number:04}") for number in range(options.members)
    ]
    with connect(*address) as sock:
        find_coordinator(sock, options.group)
        ask(sock, METADATA, MetadataRequest([MetadataRequestTopic(name=options.topic)]))
    watch = procfs.Stopwatch(options.server_pid)
    for member in members:
        member.start()
    began = time.monotonic()

    def done() -> bool:
        if sum(member.count for member in members) != options.partitions:
            return False
        return all(member.settled and member.count for member in members)

    serve(members, options.every_s, done, began + PATIENCE_S)
    settled_s = time.monotonic() - began
    return {"settled_ms": settled_s * 1000, "rate": 1 / settled_s, "server_cpu_s": watch.read().server_s}


def commits(options: argparse.Namespace, address: tuple[str, int]) -> dict[str, float]:
    """Commits a second, one partition each, one in flight for each client."""
    flows = []
    for number in range(options.clients):
        sock = connect(*address)
        group = f"{options.group}-{number}"
        find_coordinator(sock, group)
        topics = [OffsetCommitRequestTopic(options.topic, partitions=[OffsetCommitRequestPartition(0, 42)])]
        request = request_bytes(
            COMMIT, VERSIONS[COMMIT], 1, "logd-bench", OffsetCommitRequest(group, -1, "", topics=topics)
        )
        sock.sendall(request)
        frame = receive_frame(sock)
        answer: Any = decode_response(COMMIT, VERSIONS[COMMIT], memoryview(frame))[1]
        if answer.topics[0].partitions[0].error_code:
            raise BenchFailed(f"a commit was refused with {answer.topics[0].partitions[0].error_code}")
        flows.append(Flow(sock, [b"", request], len(frame) + 4))
    watch = procfs.Stopwatch(options.server_pid)
    answers, seconds = drive(flows, 1, options.seconds)
    return {"rate": answers / seconds, "server_cpu_us": watch.read().server_s / answers * 1e6}


def idle(options: argparse.Namespace, address: tuple[str, int]) -> dict[str, float]:
    """What the server needs for members that only send heartbeats, each over its own connection."""
    made = ClassicMember if options.protocol == "classic" else ModernMember
    ClassicMember.partitions = options.partitions
    groups: list[list[Member]] = []
    for number in range(options.groups):
        group = f"{options.group}-{number}"
        groups.append([made(address, group, options.topic, f"m-{number}-{place}") for place in range(options.members)])
    with connect(*address) as sock:
        find_coordinator(sock, options.group)
    for first in range(0, len(groups), AT_ONCE):
        some = groups[first : first + AT_ONCE]
        together = [member for members in some for member in members]
        for member in together:
            member.start()
        serve(together, 0.05, lambda some=some: all(map(_level, some)), time.monotonic() + PATIENCE_S)  # type: ignore[misc]
    every = [member for members in groups for member in members]
    return _heartbeats(every, options, time.monotonic())


def _level(members: list[Member]) -> bool:
    return all(member.settled for member in members) and len({member.epoch for member in members}) == 1


def _heartbeats(members: list[Member], options: argparse.Namespace, start: float) -> dict[str, float]:
    selector = selectors.DefaultSelector()
    for place, member in enumerate(members):
        selector.register(member.sock, selectors.EVENT_READ, member)
        member.due = start + options.every_s * place / len(members)
    watch, count, began = procfs.Stopwatch(options.server_pid), 0, time.monotonic()
    order = sorted(members, key=lambda member: member.due)
    place = 0
    while (now := time.monotonic()) < start + options.seconds:
        while order[place].due <= now:
            member = order[place]
            member.due += options.every_s
            member.beat()
            place = (place + 1) % len(order)
        for key, _ in selector.select(max(order[place].due - now, 0)):
            count += len(key.data.answers())
    seconds = time.monotonic() - began
    server_s = watch.read().server_s
    return {
        "rate": count / seconds,
        "server_cores": server_s / seconds,
        "server_cpu_us": server_s / max(count, 1) * 1e6,
    }


MODES = {"join": join, "commits": commits, "idle": idle}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--server-pid", type=int, required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--group", required=True)
    parser.add_argument("--protocol", choices=("classic", "consumer"), default="classic")
    parser.add_argument("--members", type=int, default=100)
    parser.add_argument("--partitions", type=int, default=200)
    parser.add_argument("--groups", type=int, default=500)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--every-s", type=float, default=0.2)
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    host, _, port = options.bootstrap.rpartition(":")
    print(json.dumps(MODES[options.mode](options, (host, int(port)))))


if __name__ == "__main__":
    main()

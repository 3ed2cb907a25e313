"""A case of the corpus as it is told against one server, and what was recorded of it.

A case is a function that takes a `Tale`, asks its requests in order and may look at the answers (to carry a member
id, a session id, a topic's id onwards). The tale records every question and answer; `compare` then sets the tales of
two servers side by side. Nothing here knows which server it talks to.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import sleep
from typing import Any

from .peer import Closed, Connection
from .specs import Message, Specs

POLL_PAUSE_S = 0.002
"""Between two tries of a set-up step, so that the servers get on with it on a small machine."""

SETUP_TRIES = 3000
"""How often a set-up step asks again until the server is ready; a try is one round trip."""


@dataclass(frozen=True, slots=True)
class Step:
    """One question and what came back."""

    title: str
    answer: Any


@dataclass(frozen=True, slots=True)
class Case:
    """A named tale.

    :param differs: paths (as in `compare`) of this case's answers that may differ, each with its reason.
    """

    name: str
    run: Callable[[Tale], None]
    differs: Mapping[str, str] = field(default_factory=dict)


CASES: dict[str, Case] = {}

VERSIONS: dict[str, range] = {
    "Produce": range(3, 14),
    "Fetch": range(4, 19),
    "ListOffsets": range(1, 12),
    "Metadata": range(0, 14),
    "OffsetCommit": range(2, 11),
    "OffsetFetch": range(1, 11),
    "FindCoordinator": range(0, 7),
    "JoinGroup": range(0, 10),
    "Heartbeat": range(0, 5),
    "LeaveGroup": range(0, 6),
    "SyncGroup": range(0, 6),
    "DescribeGroups": range(0, 7),
    "ListGroups": range(0, 6),
    "ApiVersions": range(0, 5),
    "CreateTopics": range(2, 8),
    "DeleteTopics": range(1, 7),
    "DeleteRecords": range(0, 3),
    "InitProducerId": range(0, 6),
    "OffsetForLeaderEpoch": range(2, 5),
    "DescribeConfigs": range(1, 5),
    "AlterConfigs": range(0, 3),
    "DescribeLogDirs": range(1, 6),
    "CreatePartitions": range(0, 4),
    "DeleteGroups": range(0, 3),
    "IncrementalAlterConfigs": range(0, 2),
    "OffsetDelete": range(0, 1),
    "DescribeCluster": range(0, 3),
    "DescribeProducers": range(0, 1),
    "ListConfigResources": range(0, 2),
    "DescribeTopicPartitions": range(0, 1),
    "ElectLeaders": range(0, 3),
    "AlterPartitionReassignments": range(0, 2),
    "ListPartitionReassignments": range(0, 1),
    "AlterReplicaLogDirs": range(1, 3),
    "DescribeQuorum": range(0, 3),
    "UpdateFeatures": range(0, 3),
    "UnregisterBroker": range(0, 1),
    "AddPartitionsToTxn": range(0, 6),
    "AddOffsetsToTxn": range(0, 5),
    "EndTxn": range(0, 6),
    "TxnOffsetCommit": range(0, 6),
    "DescribeTransactions": range(0, 1),
    "ListTransactions": range(0, 3),
    "WriteTxnMarkers": range(1, 3),
}
"""The APIs and versions that logd serves: what Kafka 4.3.1 advertises (Produce 0-2 are advertised and refused)."""


def case(
    name: str, *, versions: str | Sequence[int] | None = None, differs: Mapping[str, str] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a case, or as one case for each version of an API (passed as second argument)."""

    def register(run: Callable[..., None]) -> Callable[..., None]:
        if versions is None:
            _add(Case(name, run, differs or {}))
            return run
        for version in VERSIONS[versions] if isinstance(versions, str) else versions:
            _add(Case(f"{name}-v{version}", _with_version(run, version), differs or {}))
        return run

    return register


def _with_version(run: Callable[..., None], version: int) -> Callable[[Tale], None]:
    return lambda tale: run(tale, version)


def _add(one: Case) -> None:
    assert one.name not in CASES, f"two cases are called {one.name}"
    CASES[one.name] = one


class Tale:
    """What one case asks one server.

    :param connect: opens a new connection to the server.
    :param slug: prefix of every topic and group name, so that cases do not meet.
    """

    def __init__(self, specs: Specs, connect: Callable[[], Connection], slug: str) -> None:
        self.specs = specs
        self.connect = connect
        self.slug = re.sub(r"[^a-zA-Z0-9-]", "-", slug)
        self.steps: list[Step] = []
        self.main = connect()
        self.topics: list[str] = []
        self.ids: dict[uuid.UUID, str] = {}
        self.connections = [self.main]

    def name(self, short: str) -> str:
        """A topic's or group's name of this case's own."""
        return f"{self.slug}-{short}"

    def another(self) -> Connection:
        """One more connection, closed at the end."""
        self.connections.append(self.connect())
        return self.connections[-1]

    def close(self) -> None:
        for connection in self.connections:
            connection.close()

    def ask(self, api: str, version: int, *, on: Connection | None = None, **values: Any) -> Message:
        """Ask and record; an answer that does not come is recorded as 'closed' and is an empty message."""
        title = f"{api} v{version} {brief(values)}"
        connection = on or self.main
        try:
            answer = connection.ask(api, version, **values)
        except Closed:
            self.steps.append(Step(title, "closed"))
            self._reopen(connection)
            return {}
        self.steps.append(Step(title, answer))
        return answer

    def _reopen(self, connection: Connection) -> None:
        if connection is self.main:
            self.main = self.another()

    def quiet(self, api: str, version: int, *, on: Connection | None = None, **values: Any) -> Message:
        """Ask without recording."""
        return (on or self.main).ask(api, version, **values)

    def note(self, title: str, answer: Any) -> None:
        """Record something else that both servers must agree on."""
        self.steps.append(Step(title, answer))

    def create(
        self, short: str, partitions: int = 1, configs: Mapping[str, str] | None = None, version: int = 7
    ) -> uuid.UUID:
        """Make a topic of this case's own and wait until it has leaders. Returns its id. Not recorded."""
        name = self.name(short)
        answer = self.quiet("CreateTopics", version, topics=[new_topic(name, partitions, 1, configs)], timeout_ms=30000)
        assert answer["topics"][0]["error_code"] == 0, answer
        self.topics.append(name)
        return self.wait_for(name, partitions)

    def wait_for(self, name: str, partitions: int = 1) -> uuid.UUID:
        """Ask until the topic has that many partitions and each answers as a leader. Returns its id.

        Kafka shows a new topic in Metadata a little before its replicas are there.
        """
        rows = [{"partition_index": index, "timestamp": -1} for index in range(partitions)]
        for topic in self._metadata(name):
            if len(topic["partitions"]) != partitions:
                continue
            answer = self.quiet("ListOffsets", 6, replica_id=-1, topics=[{"name": name, "partitions": rows}])
            if all(p["error_code"] == 0 for p in answer["topics"][0]["partitions"]):
                found: uuid.UUID = topic["topic_id"]
                self.ids.setdefault(found, f"{name.removeprefix(self.slug)}/{len(self.ids)}")
                return found
        raise AssertionError(f"{name} does not come to life")

    def wait_gone(self, name: str) -> None:
        """Ask Metadata until the topic is unknown."""
        assert any(topic["error_code"] == 3 for topic in self._metadata(name)), f"{name} does not go away"

    def _metadata(self, name: str) -> Iterator[Message]:
        for _ in range(SETUP_TRIES):
            answer = self.quiet("Metadata", 12, topics=[{"name": name}], allow_auto_topic_creation=False)
            yield answer["topics"][0]
            sleep(POLL_PAUSE_S)

    def produce(self, short: str, *batches: bytes, partition: int = 0, acks: int = -1) -> list[int]:
        """Append batches one by one, not recorded. Returns their base offsets."""
        offsets = []
        for records in batches:
            answer = self.quiet("Produce", 9, **produce_body(self.name(short), records, partition, acks))
            result = answer["responses"][0]["partition_responses"][0]
            assert result["error_code"] == 0, result
            offsets.append(result["base_offset"])
        return offsets


def new_topic(
    name: str, partitions: int = 1, replicas: int = 1, configs: Mapping[str, str | None] | None = None, **more: Any
) -> Message:
    """A topic of a CreateTopics request."""
    pairs = [{"name": key, "value": value} for key, value in (configs or {}).items()]
    return {"name": name, "num_partitions": partitions, "replication_factor": replicas, "configs": pairs, **more}


def produce_body(topic: str, records: bytes | None, partition: int = 0, acks: int = -1, **more: Any) -> Message:
    """The body of a Produce request (to v12) for one partition."""
    data = [{"index": partition, "records": records}]
    return {"acks": acks, "timeout_ms": 30000, "topic_data": [{"name": topic, "partition_data": data}], **more}


def brief(value: Any, limit: int = 300) -> str:
    """A value as a short text for titles."""
    if isinstance(value, Mapping):
        text = " ".join(f"{key}={brief(inner)}" for key, inner in value.items())
        text = f"{{{text}}}"
    elif isinstance(value, list | tuple):
        text = f"[{', '.join(brief(inner) for inner in value)}]"
    elif isinstance(value, bytes):
        text = f"<{len(value)} bytes>"
    else:
        text = str(value)
    return text if len(text) <= limit else text[:limit] + "..."

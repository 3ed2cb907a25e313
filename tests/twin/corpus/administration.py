"""Elections, reassignments, log directories, the quorum, features, registrations: what operators ask for."""

from __future__ import annotations

from typing import Any

from ..specs import Message
from ..tale import Tale, case

PREFERRED, UNCLEAN = 0, 1
METADATA_TOPIC = "__cluster_metadata"
UPGRADE, SAFE_DOWNGRADE, UNSAFE_DOWNGRADE = 1, 2, 3
METADATA_VERSION = "metadata.version"


# ElectLeaders


def _elect(t: Tale, version: int, topics: list[Message] | None, kind: int = PREFERRED, timeout_ms: int = 30000) -> None:
    t.ask("ElectLeaders", version, election_type=kind, topic_partitions=topics, timeout_ms=timeout_ms)


@case("elect-leaders", versions="ElectLeaders")
def elect_leaders(t: Tale, version: int) -> None:
    """The only replica leads already, so no election is needed; what is not there is unknown."""
    t.create("a", 2)
    t.create("b")
    topics: list[Message] = [
        {"topic": t.name("a"), "partitions": [1, 0, 2, -1, 0]},
        {"topic": t.name("nowhere"), "partitions": [0]},
        {"topic": t.name("b"), "partitions": []},
    ]
    for kind in (PREFERRED, UNCLEAN):
        _elect(t, version, topics, kind)


@case("elect-leaders-odd", versions="ElectLeaders")
def elect_leaders_odd(t: Tale, version: int) -> None:
    """Nothing asked for, a topic twice, names that cannot be, types that are not, times that have passed."""
    t.create("a")
    mine = [{"topic": t.name("a"), "partitions": [0]}]
    _elect(t, version, [])
    _elect(t, version, mine + mine)
    _elect(t, version, [{"topic": name, "partitions": [0]} for name in ("", "a/b", "x" * 300)])
    for kind in (2, -1, 127):
        _elect(t, version, mine, kind)
    for timeout_ms in (0, -1, -(2**31)):
        _elect(t, version, mine, timeout_ms=timeout_ms)
        _elect(t, version, mine, kind=2, timeout_ms=timeout_ms)
        _elect(t, version, [{"topic": t.name("a"), "partitions": []}], timeout_ms=timeout_ms)
        _elect(t, version, [], timeout_ms=timeout_ms)


@case("elect-leaders-everywhere", versions="ElectLeaders")
def elect_leaders_everywhere(t: Tale, version: int) -> None:
    """Asked for all partitions, only those are told whose leader changed: none."""
    t.create("a", 2)
    for kind in (PREFERRED, UNCLEAN, 2):
        for timeout_ms in (30000, 0):
            answer = t.quiet("ElectLeaders", version, election_type=kind, topic_partitions=None, timeout_ms=timeout_ms)
            mine = [row for row in answer["replica_election_results"] if row["topic"] == t.name("a")]
            t.note(f"ElectLeaders v{version} of type {kind}", {**answer, "replica_election_results": mine})


# AlterPartitionReassignments, ListPartitionReassignments


def _move(t: Tale, version: int, *topics: tuple[str, list[tuple[int, list[int] | None]]], **more: Any) -> None:
    body = [
        {"name": name, "partitions": [{"partition_index": index, "replicas": replicas} for index, replicas in wanted]}
        for name, wanted in topics
    ]
    t.ask("AlterPartitionReassignments", version, **{"timeout_ms": 30000, "topics": body, **more})


@case("reassign", versions="AlterPartitionReassignments")
def reassign(t: Tale, version: int) -> None:
    """To where it is already, to nowhere, to brokers that are not there, back from no move at all."""
    t.create("a", 8)
    wanted: list[tuple[int, list[int] | None]] = [(0, [0]), (1, None), (2, []), (3, [1]), (4, [0, 0]), (5, [0, 1])]
    wanted += [(6, [-1]), (7, [1, 2, 3]), (8, [0]), (-1, [0]), (9, None)]
    _move(t, version, (t.name("a"), wanted))
    _move(t, version, (t.name("nowhere"), [(0, [0]), (1, None), (2, [9])]), (t.name("a"), []), ("", [(0, [0])]))
    t.ask("ListPartitionReassignments", 0, timeout_ms=30000, topics=None)


@case("reassign-odd", versions="AlterPartitionReassignments")
def reassign_odd(t: Tale, version: int) -> None:
    """Nothing asked for, a topic or partition twice, another number of replicas, times that have passed."""
    t.create("a", 2)
    name = t.name("a")
    _move(t, version)
    _move(t, version, (name, [(0, [0]), (0, None)]))
    _move(t, version, (name, [(0, [0])]), (name, [(1, [7])]))
    _move(t, version, (name, [(0, [2**31 - 1]), (1, [-(2**31)])]), ("a/b", [(0, [0])]), ("x" * 300, [(0, [0])]))
    for allowed in (True, False) if version else ():
        wanted: list[tuple[int, list[int] | None]] = [(0, [0, 1]), (1, [0])]
        _move(t, version, (name, wanted), allow_replication_factor_change=allowed)
        _move(t, version, (name, [(0, []), (1, [3])]), allow_replication_factor_change=allowed)
        _move(t, version, (name, [(0, None), (9, [0, 1])]), allow_replication_factor_change=allowed)
    for timeout_ms in (0, -1):
        _move(t, version, (name, [(0, [0])]), timeout_ms=timeout_ms)
        _move(t, version, timeout_ms=timeout_ms)


@case("list-reassignments", versions="ListPartitionReassignments")
def list_reassignments(t: Tale, version: int) -> None:
    """Nothing is ever on its way."""
    t.create("a", 2)
    mine = {"name": t.name("a"), "partition_indexes": [0, 1, 7, 0]}
    other = {"name": t.name("nowhere"), "partition_indexes": [0]}
    for topics in (None, [], [mine], [mine, mine], [other], [mine, other], [{"name": "", "partition_indexes": []}]):
        for timeout_ms in (30000, 0, -1):
            t.ask("ListPartitionReassignments", version, timeout_ms=timeout_ms, topics=topics)


# AlterReplicaLogDirs


def _log_dir(t: Tale) -> str:
    path: str = t.quiet("DescribeLogDirs", 1, topics=[])["results"][0]["log_dir"]
    return path


@case("alter-log-dirs", versions="AlterReplicaLogDirs")
def alter_log_dirs(t: Tale, version: int) -> None:
    """To the directory where it lies: done. To another: there is none. What is not there yet has no place to go to."""
    t.create("a", 2)
    here = _log_dir(t)
    topics = [
        {"name": t.name("a"), "partitions": [0, 1, 2, -1]},
        {"name": t.name("nowhere"), "partitions": [0]},
    ]
    for name_length in range(208, 220):
        for index in (0, 10, -1):
            _ask_log_dirs(t, version, [{"path": here, "topics": [{"name": "x" * name_length, "partitions": [index]}]}])
    for path in (here, here + "/", here + "/../" + here.rsplit("/", 1)[1], "/nowhere", "", "relative", "ü", here + "x"):
        t.note(path.replace(here, "HERE"), None)
        _ask_log_dirs(t, version, [{"path": path, "topics": topics}])


def _ask_log_dirs(t: Tale, version: int, dirs: list[Message]) -> None:
    """Ask and record without the server's own path in the title."""
    answer = t.quiet("AlterReplicaLogDirs", version, dirs=dirs)
    t.note(f"AlterReplicaLogDirs v{version}", answer)


@case("alter-log-dirs-odd", versions="AlterReplicaLogDirs")
def alter_log_dirs_odd(t: Tale, version: int) -> None:
    """Nothing asked for; the same partition for two directories, or twice for one."""
    t.create("a", 2)
    here = _log_dir(t)
    mine = {"name": t.name("a"), "partitions": [0, 0]}
    _ask_log_dirs(t, version, [])
    _ask_log_dirs(t, version, [{"path": here, "topics": []}])
    _ask_log_dirs(t, version, [{"path": here, "topics": [{"name": t.name("a"), "partitions": []}]}])
    _ask_log_dirs(t, version, [{"path": here, "topics": [mine, mine]}])
    _ask_log_dirs(t, version, [{"path": here, "topics": [mine]}, {"path": "/nowhere", "topics": [mine]}])
    _ask_log_dirs(t, version, [{"path": "/nowhere", "topics": [mine]}, {"path": here, "topics": [mine]}])
    _ask_log_dirs(t, version, [{"path": here, "topics": [mine]}, {"path": here, "topics": [mine]}])
    odd = [{"name": name, "partitions": [0]} for name in ("", "a/b", "x" * 300)]
    _ask_log_dirs(t, version, [{"path": here, "topics": odd}])
    _ask_log_dirs(t, version, [{"path": "/nowhere", "topics": odd}])


# DescribeQuorum


def _quorum(t: Tale, version: int, *topics: tuple[str, list[int]]) -> None:
    body = [
        {"topic_name": name, "partitions": [{"partition_index": index} for index in indexes]}
        for name, indexes in topics
    ]
    t.ask("DescribeQuorum", version, topics=body)


QUORUM_IS_OWN = {
    "DescribeQuorum*.leader_epoch": "each server counts its own starts and elections",
    "DescribeQuorum*.high_watermark": "each server counts its own metadata changes",
    "DescribeQuorum*.log_end_offset": "each server counts its own metadata changes",
    "DescribeQuorum*.listeners*": "the metadata of logd has no listener beside the broker's, which has another name",
}


@case("describe-quorum", versions="DescribeQuorum", differs=QUORUM_IS_OWN)
def describe_quorum(t: Tale, version: int) -> None:
    """The metadata has a quorum of one."""
    _quorum(t, version, (METADATA_TOPIC, [0]))


@case("describe-quorum-odd", versions="DescribeQuorum")
def describe_quorum_odd(t: Tale, version: int) -> None:
    """Only the partition of the metadata has a quorum."""
    t.create("a")
    wanted: list[list[tuple[str, list[int]]]] = [
        [(METADATA_TOPIC, [1])],
        [(METADATA_TOPIC, [-1])],
        [(METADATA_TOPIC, [])],
        [(METADATA_TOPIC, [0, 1])],
        [(METADATA_TOPIC, [0, 0])],
        [(METADATA_TOPIC, [0]), (METADATA_TOPIC, [0])],
        [(METADATA_TOPIC, [0]), (t.name("a"), [0])],
        [(t.name("a"), [0])],
        [(t.name("a"), [])],
        [("", [0])],
        [],
    ]
    for topics in wanted:
        _quorum(t, version, *topics)


# UpdateFeatures


def _level(t: Tale) -> int:
    features = t.quiet("ApiVersions", 4, client_software_name="twin", client_software_version="1.0")
    (level,) = [row["max_version_level"] for row in features["finalized_features"] if row["name"] == METADATA_VERSION]
    assert isinstance(level, int)
    return level


def _update(t: Tale, version: int, *updates: tuple[str, int, int], **more: Any) -> None:
    body: list[Message] = []
    for name, level, kind in updates:
        how = {"upgrade_type": kind} if version else {"allow_downgrade": kind != UPGRADE}
        body.append({"feature": name, "max_version_level": level, **how})
    t.ask("UpdateFeatures", version, **{"timeout_ms": 30000, "feature_updates": body, **more})


@case("update-features", versions="UpdateFeatures")
def update_features(t: Tale, version: int) -> None:
    """The level that is in force, ones that are not served, features that nobody knows."""
    level = _level(t)
    for kind in (UPGRADE, SAFE_DOWNGRADE, UNSAFE_DOWNGRADE):
        _update(t, version, (METADATA_VERSION, level, kind))
        _update(t, version, (METADATA_VERSION, level + 1, kind))
        _update(t, version, (METADATA_VERSION, 1, kind))
        _update(t, version, (METADATA_VERSION, 0, kind))
        _update(t, version, (METADATA_VERSION, -1, kind))
        _update(t, version, ("no.such.feature", 1, kind))
        _update(t, version, ("no.such.feature", 0, kind))
        _update(t, version, ("", 1, kind))
    _update(t, version, (METADATA_VERSION, level - 1, UPGRADE))


@case("update-features-odd", versions="UpdateFeatures")
def update_features_odd(t: Tale, version: int) -> None:
    """Nothing asked for, several at once, one twice, kinds that are not, times that have passed, only looking."""
    level = _level(t)
    same, unknown = (METADATA_VERSION, level, UPGRADE), ("no.such.feature", 1, UPGRADE)
    _update(t, version)
    _update(t, version, same, unknown)
    _update(t, version, unknown, same)
    _update(t, version, same, same)
    for timeout_ms in (0, -1):
        _update(t, version, same, timeout_ms=timeout_ms)
        _update(t, version, unknown, timeout_ms=timeout_ms)
    for kind in (0, 4, -1) if version else ():
        _update(t, version, (METADATA_VERSION, level, kind))
        _update(t, version, ("no.such.feature", 1, kind))
    if version:
        _update(t, version, same, validate_only=True)
        _update(t, version, unknown, validate_only=True)
        _update(t, version, (METADATA_VERSION, level - 1, SAFE_DOWNGRADE), validate_only=True)
        _update(t, version, (METADATA_VERSION, level - 1, UNSAFE_DOWNGRADE), validate_only=True)


# UnregisterBroker


@case("unregister-broker", versions="UnregisterBroker")
def unregister_broker(t: Tale, version: int) -> None:
    """A broker that is not registered."""
    for broker_id in (1, 99, -1, 2**31 - 1, -(2**31)):
        t.ask("UnregisterBroker", version, broker_id=broker_id)

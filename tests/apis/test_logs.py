"""AlterReplicaLogDirs in every version: to stay is done, to go is refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from logd.apis import logs
from logd.errors import ErrorCode
from logd.wire.schemas.alter_replica_log_dirs import (
    AlterReplicaLogDir,
    AlterReplicaLogDirsRequest,
    AlterReplicaLogDirTopic,
)
from tests.apis.calls import Admin, admin, versions

pytestmark = pytest.mark.trio
assert logs

ALTER_LOG_DIRS = 34
HERE = "/data"
UNKNOWN, NO_DIRECTORY = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, ErrorCode.LOG_DIR_NOT_FOUND


class Table:
    """Two partitions in one directory: the second one could not be opened."""

    homes = (SimpleNamespace(path=HERE),)

    def get(self, topic: str, index: int) -> object:
        """The partition, or None."""
        failures = {("a", 0): None, ("a", 1): "broken"}
        if (topic, index) not in failures:
            return None
        return SimpleNamespace(failure=failures[topic, index], log=SimpleNamespace(path=f"{HERE}/{topic}-{index}"))


async def codes(version: int, *wishes: tuple[str, str, list[int]]) -> dict[tuple[str, int], int]:
    """Error codes by partition of a request for (path, topic, partitions); each partition is answered once."""
    node = Admin((await admin()).cluster, partitions=Table())
    dirs = [AlterReplicaLogDir(path, [AlterReplicaLogDirTopic(name, indexes)]) for path, name, indexes in wishes]
    answer = await node.ask(ALTER_LOG_DIRS, version, AlterReplicaLogDirsRequest(dirs))
    rows = [(row.topic_name, one.partition_index, one.error_code) for row in answer.results for one in row.partitions]
    found = {(name, index): code for name, index, code in rows}
    assert len(found) == len(rows)
    return found


@pytest.mark.parametrize("version", versions(ALTER_LOG_DIRS))
async def test_to_stay(version: int) -> None:
    """Where it lies already: done. What is not here can't stay, and what can't be opened is offline."""
    found = await codes(version, (HERE, "a", [0, 1, 2, 0]), (HERE, "b", [0]))
    storage = ErrorCode.KAFKA_STORAGE_ERROR
    assert found == {("a", 0): 0, ("a", 1): storage, ("a", 2): UNKNOWN, ("b", 0): UNKNOWN}


@pytest.mark.parametrize("version", versions(ALTER_LOG_DIRS))
@pytest.mark.parametrize("path", ["/elsewhere", "", "data", HERE + "/", HERE + "/../data"])
async def test_to_go(version: int, path: str) -> None:
    """There is one directory, by the one name that DescribeLogDirs tells; this is looked at first."""
    assert await codes(version, (path, "a", [0]), (path, "b", [0])) == {("a", 0): NO_DIRECTORY, ("b", 0): NO_DIRECTORY}


async def test_the_last_wish_counts() -> None:
    """For a partition that shall go to two places."""
    assert await codes(2, (HERE, "a", [0]), ("/elsewhere", "a", [0])) == {("a", 0): NO_DIRECTORY}
    assert await codes(2, ("/elsewhere", "a", [0]), (HERE, "a", [0])) == {("a", 0): 0}


@pytest.mark.parametrize(("length", "index", "code"), [(213, 0, UNKNOWN), (213, 10, 17), (214, 0, 17), (300, 0, 17)])
async def test_a_name_too_long_to_be_moved(length: int, index: int, code: int) -> None:
    """Kafka must be able to name the directory of a replica on its way."""
    assert list((await codes(2, (HERE, "x" * length, [index]))).values()) == [code]

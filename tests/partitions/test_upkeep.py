"""What is looked at once a second: here that a start after a crash never has too much to read."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from logd.cluster.image import Image
from logd.config import Settings
from logd.jobs.retention import retain
from logd.log.state import STATE_NAME, State, parse_state
from logd.partitions import upkeep
from logd.partitions.partition import Partition
from logd.partitions.table import PartitionTable
from logd.partitions.upkeep import Upkeep
from tests.log.batches import batch
from tests.partitions.test_table import OLD, Standing, image, table


def recovery_points(partitions: PartitionTable) -> list[int]:
    """From where a start after a crash reads each of them."""
    paths = [Path(one.log.path) / STATE_NAME for one in partitions]
    states = [parse_state(path.read_bytes()) if path.exists() else State() for path in paths]
    return [one.recovery_point for one in states]


def work(partition: Partition) -> None:
    """Do what the flusher would do."""
    while (job := partition.next_job()) is not None:
        job.run()
        partition.job_done(job)


async def look(partitions: PartitionTable) -> None:
    """A second passes."""
    cluster: Any = SimpleNamespace(settings=Settings(), image=Image())
    await Upkeep(partitions, cluster, Standing(), retain).look()
    for partition in partitions:
        work(partition)


@pytest.mark.trio
@pytest.mark.parametrize("flushed", [False, True])
async def test_recovery_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flushed: bool) -> None:
    """The partitions that would take the longest get a recovery point, whether they are flushed already or not."""
    monkeypatch.setattr(upkeep, "RECOVERY_BYTES_MAX", 3500)
    partitions = table(tmp_path)
    await partitions.open_all(image(OLD, 3))
    for partition, size in zip(partitions, (1000, 2000, 3000), strict=True):
        partition.append(batch(value=b"v" * size))
        if flushed:
            partition.want_flush()
            work(partition)
    assert recovery_points(partitions) == [0, 0, 0]
    await look(partitions)
    assert recovery_points(partitions) == [0, 0, 1]
    partitions.find("t", 1).append(batch(value=b"v" * 2000))
    await look(partitions)
    assert recovery_points(partitions) == [0, 2, 1]


@pytest.mark.trio
async def test_what_a_crash_left_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one start has read without a recovery point is not to be read by the next one again."""
    partitions = table(tmp_path)
    await partitions.open_all(image(OLD))
    partitions.find("t", 0).append(batch(value=b"v" * 5000))
    partitions.find("t", 0).log.close(clean=False)
    again = table(tmp_path)
    await again.open_all(image(OLD))
    await look(again)
    assert recovery_points(again) == [0]
    monkeypatch.setattr(upkeep, "RECOVERY_BYTES_MAX", 4000)
    await look(again)
    assert recovery_points(again) == [1]

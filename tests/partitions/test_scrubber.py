"""The slow look at all that is stored, beside those who change it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from logd.config import Settings
from logd.partitions import scrubber
from logd.partitions.scrubber import Scrubber
from tests.log.batches import batch, flush
from tests.partitions.test_scarcity import Late
from tests.partitions.test_table import NEW, Standing, image, table


@pytest.mark.trio
async def test_records_are_deleted_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where DeleteRecords takes what would be read next, the look goes on behind it."""
    partitions = table(tmp_path)
    await partitions.open_all(image(NEW))
    partition = partitions.find("t", 0)
    log = partition.log
    sizes = [len(data) for data in (batch(), batch(), batch(), batch()) if partition.append(data)]
    log.roll(0)
    flush(log)
    monkeypatch.setattr(scrubber, "PIECE_BYTES", sizes[0])
    cluster: Any = SimpleNamespace(settings=Settings(log_scrub_interval_ms=0, log_scrub_bytes_per_second=2**40))
    scrubbing = Scrubber(partitions, cluster, Late())

    async def pause(seconds: float) -> None:
        log.advance_start(3)

    monkeypatch.setattr(trio, "sleep", pause)
    await scrubbing.look()
    assert scrubbing.checked_bytes == sizes[0] + sizes[3]
    assert scrubbing.found == 0
    log.close(clean=False)


@pytest.mark.trio
@pytest.mark.parametrize(("ahead_ms", "looks"), [(10**12, 1), (1000, 0)])
async def test_written_under_a_clock_that_was_ahead(tmp_path: Path, ahead_ms: int, looks: int) -> None:
    """A segment from the far future is not left alone until then; one of a moment ahead waits as others do."""
    partitions = table(tmp_path)
    await partitions.open_all(image(NEW))
    partition = partitions.find("t", 0)
    partition.append(batch())
    partition.log.roll(0)
    flush(partition.log)
    partition.log.segments[0].changed_ms = Standing().now_ms() + ahead_ms
    cluster: Any = SimpleNamespace(settings=Settings(log_scrub_bytes_per_second=2**40))
    scrubbing = Scrubber(partitions, cluster, Standing())
    await scrubbing.look()
    await scrubbing.look()
    assert scrubbing.checked_bytes == looks * partition.log.segments[0].size
    partition.log.close(clean=False)

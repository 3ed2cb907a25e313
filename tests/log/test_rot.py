"""Files that changed while nobody looked: no bit of a batch that is wrong is ever read out."""

from __future__ import annotations

import random

import msgspec
import pytest

from logd.errors import Corrupt
from logd.log.log import Log, LogConfig
from tests.fakes.disks import MemoryDisk
from tests.log.batches import TOPIC_ID, append, batch, content

PATH = "/data/t-0"
CONFIG = LogConfig(segment_bytes=1000, index_interval_bytes=100)


def filled(disk: MemoryDisk) -> Log:
    """Thirty batches in several segments, closed and opened again."""
    log = Log.create(PATH, TOPIC_ID, CONFIG, now_ms=0, disk=disk)
    for number in range(30):
        append(log, batch(2, value=b"%04d" % number * 10, producer=1, sequence=number * 2), epoch=number // 10)
    log.close()
    return Log.open(PATH, CONFIG, clean=True, now_ms=0, disk=disk)


@pytest.mark.parametrize("compacted", [False, True])
def test_every_flipped_bit_is_seen(disk: MemoryDisk, compacted: bool) -> None:
    """With any one bit of a sealed segment turned over, its readers get an error or what was appended.

    So too in a log that is to be compacted and has not been: there is no gap yet that would hide a wrong offset.
    """
    config = msgspec.structs.replace(CONFIG, compacted=compacted)
    expected = content(filled(disk))
    rnd = random.Random(1)
    found = 0
    files = [disk.names[f"{PATH}/{one.base_offset:020d}.log"] for one in filled(MemoryDisk()).segments[:-1]]
    for _ in range(600):
        file = rnd.choice(files)
        assert file is not None
        at, bit = rnd.randrange(len(file.data)), 1 << rnd.randrange(8)
        file.data[at] ^= bit
        log = Log.open(PATH, config, clean=True, now_ms=0, disk=disk)
        try:
            assert content(log) == expected
        except Corrupt:
            found += 1
        file.data[at] ^= bit
    assert found == 600


def test_what_is_well_is_checked_once(disk: MemoryDisk) -> None:
    """A piece that was read and found well is sent from the map the next time."""
    log = filled(disk)
    assert not log.read(0, bytes_max=10_000, end=60)[0].resident()
    expected = content(log)
    assert log.read(0, bytes_max=10_000, end=60)[0].resident()
    assert content(log) == expected


def test_own_batches_are_not_checked(disk: MemoryDisk) -> None:
    """What this process appended is sent at once, in a segment that was there before too."""
    log = filled(disk)
    base = append(log, batch(epoch=3), epoch=3).base_offset
    assert log.read(base, bytes_max=10_000, end=log.end_offset)[0].resident()


@pytest.mark.parametrize("gone", [1, 2])
def test_shorter_file(disk: MemoryDisk, gone: int) -> None:
    """A sealed segment that lost its end, or all of it, is an error and no gap that readers step over."""
    log = filled(disk)
    file = disk.names[f"{PATH}/{log.segments[gone].base_offset:020d}.log"]
    assert file is not None
    del file.data[len(file.data) // gone // 2 :]
    with pytest.raises(Corrupt):
        content(Log.open(PATH, CONFIG, clean=True, now_ms=0, disk=disk))


@pytest.mark.parametrize("clean", [False, True])
def test_a_base_offset_far_off_is_no_place_in_a_segment(disk: MemoryDisk, clean: bool) -> None:
    """An index is not made of it, and a log that is closed or opened meanwhile says that it is damaged."""
    log = filled(disk)
    sealed = log.segments[1]
    name = f"{PATH}/{sealed.base_offset:020d}"
    file = disk.names[f"{name}.log"]
    assert file is not None
    file.data[2] ^= 1  # of the base offset, which no checksum covers
    disk.remove(f"{name}.index")
    log.close(clean=False)
    again = Log.open(PATH, CONFIG, clean=clean, now_ms=0, disk=disk)
    damaged = again.segments[1]
    damaged.finished = False  # as one whose sealing a crash overtook
    with pytest.raises(Corrupt, match="cannot be in this segment"):
        again.close()

"""The disk of the power cuts: what a cut may leave, and that no cut is written to by what outlived the one before."""

from __future__ import annotations

import random
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from tools.faults.blocks import SECTOR_BYTES, Mounted, Recorder, make, needed, said
from tools.faults.power import fresh
from tools.faults.report import Skipped

BLOCK, BLOCKS = 4096, 64


def disk_or_skip() -> None:
    """Leave where this machine cannot do it."""
    try:
        needed()
    except Skipped as why:
        pytest.skip(str(why))


def test_cut_is_left_alone(tmp_path: Path) -> None:
    """A mount that another namespace took a copy of, and writes to, changes the disk of no later cut.

    The kit once wrote the next disk into the same file: then ext4 was inconsistent, or older than what was promised.
    """
    disk_or_skip()
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed (Debian: apt install util-linux)")
    path, place = tmp_path / "cut", tmp_path / "mounted"
    make(path, "ext4", 40 << 20)
    image = path.read_bytes()
    script = f"echo here; read -r _; seq 100000 > {place}/harm; sync; echo done; read -r _"
    command = ["unshare", "-m", "--propagation", "private", "sh", "-c", script]
    with ExitStack() as ended:
        with Mounted(fresh(path, image), place, "ext4"):
            other = ended.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            ended.callback(other.kill)
            assert other.stdin is not None
            assert other.stdout is not None
            if other.stdout.readline() != "here\n":
                pytest.skip("unshare may not make mount namespaces here")
        fresh(path, image)
        other.stdin.write("now\n")
        other.stdin.flush()
        assert other.stdout.readline() == "done\n"
        assert path.read_bytes() == image
        other.communicate("end\n")
        assert path.read_bytes() == image


def test_nothing_flushed_is_missing(tmp_path: Path) -> None:
    """Of a cut at any moment: what a flush covered is whole, of the rest there is old or new, sector by sector."""
    disk_or_skip()
    with Recorder(tmp_path, bytes(BLOCK * BLOCKS)) as disk:
        device = said(["losetup", "--find", "--show", str(disk.path)])
        try:
            flushed_at = []
            for number in range(1, 9):
                data = bytes([number]) * (BLOCK * BLOCKS)
                subprocess.run(
                    ["dd", f"of={device}", f"bs={BLOCK}", "oflag=direct", "conv=notrunc,fsync"],
                    input=data,
                    capture_output=True,
                    check=True,
                )
                flushed_at.append(disk.moment)
        finally:
            said(["losetup", "--detach", device])
        chance, mixed = random.Random(4), 0
        for moment in range(1, flushed_at[-1] + 1):
            done = sum(one <= moment for one in flushed_at)
            image = disk.image(moment, chance)
            sectors = {bytes(image[at : at + SECTOR_BYTES]) for at in range(0, len(image), SECTOR_BYTES)}
            assert sectors <= {bytes([one]) * SECTOR_BYTES for one in (done, done + 1)}
            mixed += len(sectors) > 1
        assert mixed > len(flushed_at)

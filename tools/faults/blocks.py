"""A file whose every write and flush is kept, as the disk below a file system: FUSE, spoken by hand.

A :class:`Recorder` mounts a directory with one file, ``disk``, of a fixed size; a loop device over it is a disk that
remembers. :meth:`Recorder.image` makes the disk as a power cut would leave it: everything up to a moment's last flush,
and of what came after it a random part, torn at sectors. Needs root, /dev/fuse and loop devices.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import shutil
import struct
import subprocess
import threading
from collections.abc import Iterable
from pathlib import Path

from tools.faults.report import Skipped

LIBC = ctypes.CDLL(None, use_errno=True)
HEADER = struct.Struct("<IIQQIIII")  # size, opcode, unique, node id, uid, gid, pid, padding
OUT = struct.Struct("<IiQ")
ATTRIBUTES = struct.Struct("<QQQQQQIIIIIIIIII")
DESTROY = 38
ENOENT, ENOSYS = 2, 38
ROOT_NODE, FILE_NODE = 1, 2
NAME = b"disk"
DIRECT_IO = 1
SECTOR_BYTES = 512
WRITE_BYTES_MAX = 128 * 1024
MNT_DETACH = 2


def needed() -> None:
    """Raise Skipped when this machine cannot do it."""
    if os.geteuid() != 0:
        raise Skipped("block replay needs root")
    for path in ("/dev/fuse", "/dev/loop-control"):
        if not Path(path).exists():
            raise Skipped(f"{path} is not there")


class Recorder:
    """A disk of ``size`` bytes that starts as a copy of ``base``, mounted below ``directory``; a context manager."""

    def __init__(self, directory: Path, base: bytes | bytearray) -> None:
        needed()
        self.base = bytes(base)
        self.now = bytearray(base)
        self.writes: list[tuple[int, bytes] | None] = []
        """Positions and bytes as they came; None for a flush that has been answered."""
        self.mount = directory / "blocks"
        self.path = self.mount / NAME.decode()
        self._thread: threading.Thread | None = None
        self._fd = -1

    def __enter__(self) -> Recorder:
        self.mount.mkdir(parents=True, exist_ok=True)
        self._fd = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={self._fd},rootmode=40000,user_id=0,group_id=0".encode()
        if LIBC.mount(b"logd-faults", str(self.mount).encode(), b"fuse", 0, options):
            number = ctypes.get_errno()
            os.close(self._fd)
            raise Skipped(f"FUSE cannot be mounted: {os.strerror(number)}")
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        LIBC.umount2(str(self.mount).encode(), MNT_DETACH)
        with contextlib.suppress(OSError):
            os.close(self._fd)
        assert self._thread is not None
        self._thread.join(10)

    @property
    def moment(self) -> int:
        """How many writes and flushes there have been."""
        return len(self.writes)

    def _serve(self) -> None:
        while True:
            try:
                request = os.read(self._fd, WRITE_BYTES_MAX + 4096)
            except OSError:
                return
            size, opcode, unique, node, *_ = HEADER.unpack_from(request)
            answer = self._answer(opcode, node, request[HEADER.size : size])
            if answer is None:
                continue
            error, data = answer
            with contextlib.suppress(OSError):
                os.write(self._fd, OUT.pack(OUT.size + len(data), -error, unique) + data)
            if opcode == DESTROY:
                return

    def _answer(self, opcode: int, node: int, body: bytes) -> tuple[int, bytes] | None:
        match opcode:
            case 26:  # INIT
                flags, pages = 1 << 5, WRITE_BYTES_MAX // 4096  # BIG_WRITES
                return 0, struct.pack("<IIIIHHIIHH", 7, 31, 65536, flags, 12, 9, WRITE_BYTES_MAX, 1, pages, 0) + bytes(
                    32
                )
            case 1:  # LOOKUP
                if node != ROOT_NODE or body.rstrip(b"\0") != NAME:
                    return ENOENT, b""
                return 0, struct.pack("<QQQQII", FILE_NODE, 0, 3600, 3600, 0, 0) + self._attributes(FILE_NODE)
            case 3 | 4:  # GETATTR, SETATTR
                return 0, struct.pack("<QII", 3600, 0, 0) + self._attributes(node)
            case 14 | 27:  # OPEN, OPENDIR
                return 0, struct.pack("<QII", 0, DIRECT_IO if node == FILE_NODE else 0, 0)
            case 15:  # READ
                _, position, size = struct.unpack_from("<QQI", body)
                return 0, bytes(self.now[position : position + size])
            case 16:  # WRITE
                _, position, size = struct.unpack_from("<QQI", body)
                data = body[40 : 40 + size]
                self.now[position : position + size] = data
                self.writes.append((position, data))
                return 0, struct.pack("<II", size, 0)
            case 20:  # FSYNC
                self.writes.append(None)
                return 0, b""
            case 17:  # STATFS
                return 0, struct.pack("<QQQQQIIII", 1 << 20, 1 << 20, 1 << 20, 10, 10, 4096, 255, 4096, 0) + bytes(24)
            case 18 | 25 | 28 | 29:  # RELEASE, FLUSH, READDIR, RELEASEDIR
                return 0, b""
            case 2 | 42:  # FORGET, BATCH_FORGET
                return None
            case _:
                return ENOSYS, b""

    def _attributes(self, node: int) -> bytes:
        size, mode = (len(self.now), 0o100600) if node == FILE_NODE else (0, 0o040700)
        return ATTRIBUTES.pack(node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)

    def image(self, moment: int, chance: random.Random) -> bytearray:
        """The disk after a power cut at a moment: nothing flushed is missing, of the rest there is a random part."""
        events = self.writes[:moment]
        flushed = max((at + 1 for at, one in enumerate(events) if one is None), default=0)
        disk = bytearray(self.base)
        for one in events[:flushed]:
            if one is not None:
                disk[one[0] : one[0] + len(one[1])] = one[1]
        share = chance.choice((0.0, 0.3, 0.7, 0.95, 1.0))
        rest = [one for one in events[flushed:] if one is not None]
        for position, data in rest:
            if chance.random() >= share:
                continue
            for sector in torn(len(data) // SECTOR_BYTES, chance):
                start = sector * SECTOR_BYTES
                disk[position + start : position + start + SECTOR_BYTES] = data[start : start + SECTOR_BYTES]
        return disk


def torn(sectors: int, chance: random.Random) -> Iterable[int]:
    """Which sectors of a write are there after a cut: all, as many as were done in order, or any of them."""
    how = chance.random()
    if how < 0.5:
        return range(sectors)
    if how < 0.8:
        return range(chance.randrange(sectors + 1))
    return chance.sample(range(sectors), chance.randrange(sectors + 1))


class Mounted:
    """A file system on a file, through a loop device; a context manager that gives the directory."""

    def __init__(self, image: Path, directory: Path, kind: str, *options: str) -> None:
        self._image = image
        self._directory = directory
        self._kind = kind
        self._options = options
        self._device = ""

    def __enter__(self) -> Path:
        self._directory.mkdir(parents=True, exist_ok=True)
        self._device = said(["losetup", "--find", "--show", str(self._image)])
        try:
            options = ["-o", ",".join(self._options)] if self._options else []
            said(["mount", "-t", self._kind, *options, self._device, str(self._directory)])
        except Skipped:
            said(["losetup", "--detach", self._device])
            raise
        return self._directory

    def __exit__(self, *_: object) -> None:
        for attempt in (["umount", str(self._directory)], ["umount", "-l", str(self._directory)]):
            if subprocess.run(attempt, capture_output=True, check=False).returncode == 0:
                break
        subprocess.run(["losetup", "--detach", self._device], capture_output=True, check=False)


def said(command: list[str]) -> str:
    """Run a command of the system; raises Skipped when it is missing or refuses."""
    if shutil.which(command[0]) is None:
        raise Skipped(f"{command[0]} is not installed")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Skipped(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout.strip()


def make(path: Path, kind: str, size: int) -> None:
    """Make a file system of a kind on a new file."""
    with path.open("wb") as file:
        file.truncate(size)
    if kind == "xfs":
        said(["mkfs.xfs", "-q", "-f", "--unsupported", "-l", "size=8m", str(path)])
    else:
        said(["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", "-J", "size=4", str(path)])

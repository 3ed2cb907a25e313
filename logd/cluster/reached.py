"""How far a metadata store has come, noted in a small file beside it: so that commits which vanish are told.

SQLite takes a WAL with a wrong bit for one that ends there, since a power cut leaves such ends, and says nothing. The
note (:mod:`logd.log.note`) is written after each commit, so it is never newer than what was committed. Used by
``sqlite`` alone.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from logd.log.note import pack_note, parse_note

SUFFIX: Final = ".version"
_MAGIC: Final = b"LMV1"


class Reached:
    """The note of one store. Every call waits for the disk."""

    def __init__(self, store: Path) -> None:
        self.path = Path(f"{store}{SUFFIX}")
        self._noted = self.read()

    def read(self) -> int:
        """The version that the store has reached; 0 when there is no note, or a damaged one."""
        try:
            return parse_note(_MAGIC, self.path.read_bytes())
        except OSError:
            return 0

    def note(self, version: int) -> None:
        """Write a version down, after it was committed; where that fails less is known, and that is all."""
        if version == self._noted:
            return
        with contextlib.suppress(OSError):
            file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.pwrite(file, pack_note(_MAGIC, version), 0)
            finally:
                os.close(file)
            self._noted = version

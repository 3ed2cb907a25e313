"""CRC-32C, the checksum of record batches. The one owner of the crc32c library.

The library's package reads its own version when it is imported, which costs 40 ms of a start that may take 350; so
its extension module is loaded by itself, and the package only where that does not work.
"""

from __future__ import annotations

from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from typing import Protocol, cast

from logd.wire.message import Buffer


class _Checksum(Protocol):
    def __call__(self, data: Buffer, crc: int = 0, /) -> int: ...


def _load() -> _Checksum:
    package = PathFinder.find_spec("crc32c")
    where = package.submodule_search_locations if package else None
    spec = PathFinder.find_spec("_crc32c", where) if where else None
    if spec is None or spec.loader is None:
        from crc32c import crc32c as found

        return found
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return cast(_Checksum, module.crc32c)


crc32c = _load()
"""crc32c(data, crc=0): the CRC-32C of `data`, going on from `crc`. Releases the GIL while it works."""

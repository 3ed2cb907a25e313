"""The worker process: computes what would stall the event loop. Started by ``jobs.process``, one for a node.

``python -m logd.jobs.worker [BYTES]`` reads orders from its standard input and answers on its standard output, each a
length of four bytes and msgpack. It leaves BYTES of the disk free (``log.dir.free.bytes.min``). It runs niced, works on
one log at a time, and ends at once when its input does, so that it never outlives the node. It writes only files that
the log does not use yet.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import IO

import msgspec

from logd.errors import Corrupt, StorageFailed
from logd.log.bulk import BulkDisk
from logd.log.chunks import Background, at_once
from logd.log.cleaner import Cleaner, MapTooSmall, Piece, Rewritten, Surveyed, Task, Tell
from logd.log.disk import Disk

NICENESS = 10
LENGTH_BYTES = 4
SALT_BYTES = 16
SWITCH_S = 0.0001
"""The threads that read and write need the interpreter between two calls only, and then at once."""


class Start(msgspec.Struct, frozen=True, tag=True):
    """Begin with a log: answered by :class:`~logd.log.cleaner.Surveyed`."""

    task: Task


class Group(msgspec.Struct, frozen=True, tag=True):
    """Write neighbouring segments of that log as one: answered by :class:`~logd.log.cleaner.Rewritten`."""

    pieces: list[Piece]


class Finish(msgspec.Struct, frozen=True, tag=True):
    """Forget that log and its key map."""


class Failure(msgspec.Struct, frozen=True, tag=True):
    """What went wrong: ``kind`` is corrupt, storage, memory (the map is too small) or bug."""

    kind: str
    path: str
    position: int
    text: str


class Outcome(msgspec.Struct, frozen=True):
    """An answer: exactly one of its fields for a Start, a Group or a failure; none for a Finish.

    With ``passed_bytes`` it is not the answer yet, but says how much of the log has been read since its Start.
    """

    surveyed: Surveyed | None = None
    rewritten: Rewritten | None = None
    failure: Failure | None = None
    passed_bytes: int | None = None


Order = Start | Group | Finish
encode_order = msgspec.msgpack.Encoder().encode
decode_order = msgspec.msgpack.Decoder(Order).decode
encode_outcome = msgspec.msgpack.Encoder().encode
decode_outcome = msgspec.msgpack.Decoder(Outcome).decode


def framed(data: bytes) -> bytes:
    """Return a message with its length in front."""
    return len(data).to_bytes(LENGTH_BYTES, "big") + data


def read_frame(stream: IO[bytes]) -> bytes | None:
    """Read a message; None at the end of the stream."""
    head = stream.read(LENGTH_BYTES)
    if len(head) < LENGTH_BYTES:
        return None
    size = int.from_bytes(head, "big")
    data = stream.read(size)
    return data if len(data) == size else None


class Bench:
    """Carries out orders; holds the log that is being worked on."""

    def __init__(self, disk: Disk, background: Background = at_once, tell: Tell | None = None) -> None:
        self._disk = disk
        self._background = background
        self._tell = tell
        self._cleaner: Cleaner | None = None

    def carry_out(self, order: Order, salt: bytes) -> Outcome:
        """Do what is asked; what goes wrong is part of the answer."""
        try:
            return self._carry_out(order, salt)
        except Corrupt as corrupt:
            return Outcome(failure=Failure("corrupt", corrupt.path, corrupt.position, str(corrupt)))
        except StorageFailed as failed:
            number = failed.cause.errno or 0
            return Outcome(failure=Failure("storage", failed.path, number, failed.cause.strerror or str(failed.cause)))
        except MapTooSmall as small:
            return Outcome(failure=Failure("memory", "", 0, str(small)))
        except MemoryError as error:
            return Outcome(failure=Failure("memory", "", 0, f"no memory for the map of keys: {error}"))
        except Exception:
            return Outcome(failure=Failure("bug", "", 0, traceback.format_exc()))

    def _carry_out(self, order: Order, salt: bytes) -> Outcome:
        if isinstance(order, Start):
            self._cleaner = None  # its map goes before the next is made
            self._cleaner = Cleaner(self._disk, order.task, salt, self._background, self._tell)
            return Outcome(surveyed=self._cleaner.survey())
        if isinstance(order, Group):
            assert self._cleaner is not None, "a group before its log"
            return Outcome(rewritten=self._cleaner.rewrite(order.pieces))
        self._cleaner = None
        return Outcome()


def _listen(source: IO[bytes], orders: SimpleQueue[bytes]) -> None:
    while (data := read_frame(source)) is not None:
        orders.put(data)
    os._exit(0)  # the node has gone or wants no more: what is half written is removed by the next open


def main() -> None:
    """Serve the process that started this one."""
    os.nice(NICENESS)
    sys.setswitchinterval(SWITCH_S)
    gc.disable()  # it would look through batches by the thousand, which are in no cycle; this process ends after a run
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # of a terminal, meant for the node: no traceback
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a stray print must not look like an answer
    orders: SimpleQueue[bytes] = SimpleQueue()
    try:
        threading.Thread(target=_listen, args=(sys.stdin.buffer, orders), daemon=True).start()
        reads = ThreadPoolExecutor(1, "reader")
        reads.submit(int).result()
        disk = BulkDisk(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    except RuntimeError:  # no threads to be had
        os._exit(os.EX_TEMPFAIL)

    def answer(outcome: Outcome) -> None:
        answers.write(framed(encode_outcome(outcome)))
        answers.flush()

    bench = Bench(
        disk,
        lambda work: reads.submit(work).result,
        lambda passed_bytes: answer(Outcome(passed_bytes=passed_bytes)),
    )
    while True:
        answer(bench.carry_out(decode_order(orders.get()), os.urandom(SALT_BYTES)))


if __name__ == "__main__":
    main()

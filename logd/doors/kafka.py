"""The Kafka door: TCP connections in, frames to the apis, answers out in the order of their requests.

One task serves a connection, and a second one while answers are parked. A request starts only when all before it on
its connection have been answered; Produce alone may start while earlier Produce requests wait for the disk, so that
appends keep their order and flushes are shared. While an answer waits or a peer does not read, at most one more
request is taken in, so a slow peer costs bounded memory. What a peer asked before it left, or closed its own side
only, is carried out and answered. The door knows nothing of topics and never decodes a body.
"""

from __future__ import annotations

import logging
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio

from logd.apis.dispatch import Hangup, Large, Parts, Pending, Ready, start
from logd.apis.registry import Connection, Services
from logd.chronicle import connection_note
from logd.errors import DecodeError
from logd.wire.frames import FrameBuffer

if TYPE_CHECKING:
    from logd.config import Settings

logger = logging.getLogger("logd.door.kafka")

SEND_PARTS_MAX = 512
"""Buffers in one sendmsg: half of Linux' IOV_MAX."""

COALESCED_BYTES_MAX = 64 * 1024
"""Small answers to requests that arrived together leave in one sendmsg, up to this size."""

TURN_REQUESTS_MAX = 32
"""Requests that one connection may start before others get their turn."""

TURN_S_MAX = 0.005
"""How long one connection may compute before others get their turn. A frame of 64 KiB can take 25 ms: a peer that sends
dozens of them in one go, over many connections, would have the loop for seconds."""

TURN_LOOKS = 4
"""After so many requests it is looked whether that time has passed."""

TURN_RECEIVES_MAX = 4
"""Times that a connection may find bytes waiting before others get their turn."""

LUCK_MAX = 16
LUCK_LOST = 4
"""A look at a drained socket that finds nothing counts like so many that find something: it costs a system call, and
waiting for bytes that are there costs two."""

PENDING_MAX = 64
"""Parked answers of one connection: a producer has 5 requests in flight, the rest is patience."""

PRODUCE_HEAD = b"\0\0"
"""How the frame of a Produce request begins."""


class Peer:
    """One connection: takes requests in, starts them in order, writes answers in order."""

    __slots__ = (
        "arrived",
        "closing",
        "connection",
        "drained",
        "frames",
        "gone",
        "held",
        "idle_sweeps",
        "left",
        "luck",
        "pending",
        "request_bytes_max",
        "scope",
        "sending",
        "services",
        "sock",
        "unbroken",
        "writing",
    )

    def __init__(self, sock: socket.socket, connection: Connection, services: Services, settings: Settings) -> None:
        self.sock = sock
        self.connection = connection
        self.services = services
        self.request_bytes_max = settings.socket_request_max_bytes
        first_bytes_max = min(settings.socket_first_request_max_bytes, self.request_bytes_max)
        self.frames = FrameBuffer(first_bytes_max, self.request_bytes_max)
        self.pending: deque[Pending | Large | Ready] = deque()
        self.held: memoryview | None = None
        self.closing = False
        self.gone = False  # the peer sends no more
        self.drained = False  # the last receive took all that there was
        self.luck = 0  # of looking for more right after that; below 0 it is waited for first
        self.unbroken = 0
        self.idle_sweeps = 0
        self.scope = trio.CancelScope()
        self.arrived = trio.Event()  # an answer to wait for
        self.left = trio.Event()  # an answer, while a request is held
        self.writing = False
        self.sending = False

    async def serve(self) -> None:
        """Until the peer leaves or has to be hung up on."""
        try:
            with self.scope:
                async with trio.open_nursery() as nursery:
                    await self._guarded(self._requests, nursery)
        finally:
            for answer in self.pending:
                answer.drop()

    @property
    def busy(self) -> bool:
        """Whether an answer is still owed."""
        return bool(self.pending) or self.sending

    @property
    def waits(self) -> bool:
        """Whether it is our turn: an answer is not there yet. One that the peer does not take is not waited for."""
        return bool(self.pending) and not self.sending and not self.gone

    def drain(self) -> None:
        """Finish what is in flight, start nothing more."""
        self.closing = True
        if not self.busy:
            self.scope.cancel()

    def rest(self) -> None:
        """Give big buffers back; called when the connection has been silent for a while."""
        self.frames.shrink()

    async def _guarded(self, loop: Callable[[trio.Nursery], Awaitable[None]], nursery: trio.Nursery) -> None:
        """The barrier of a connection: whatever goes wrong ends this connection and nothing else."""
        peer = self.connection.peer
        try:
            await loop(nursery)
        except (Hangup, DecodeError) as error:
            logger.warning("%s on %s: closed: %s", peer, self.connection.listener, error)
            note = connection_note(peer, "closed", f"closed: {error}", client=self.connection.client_name)
            self.services.chronicle.add(note, self.services.clock.now_ms())
        except OSError as error:
            logger.info("%s on %s: lost: %s", peer, self.connection.listener, error.strerror or error)
        except Exception:
            logger.exception("%s on %s: closed: a request failed here, which is a bug", peer, self.connection.listener)
        self.scope.cancel()

    async def _requests(self, nursery: trio.Nursery) -> None:
        while not self.closing and await self._receive():
            self.idle_sweeps = 0
            goes_on = await self._start_requests()
            if self.pending and not self.writing:
                self.writing = True
                nursery.start_soon(self._guarded, self._answers, nursery)
            if not goes_on:
                break
        self.closing = True
        if self.pending:
            await trio.sleep_forever()  # until what waits has been answered

    async def _receive(self) -> bool:
        """Take in some bytes or, with a request at hand that must wait, see answers leave; False at the peer's end."""
        if self.held is None:
            return await self._receive_bytes()
        if self.pending:
            self.left = trio.Event()
            await self.left.wait()
        return True

    async def _receive_bytes(self) -> bool:
        sock = self.sock
        self.unbroken += 1
        if self.unbroken > TURN_RECEIVES_MAX:
            self.unbroken = 0
            await trio.lowlevel.checkpoint()
        looks = self.drained
        if looks and self.luck < 0:
            looks = False
            self.luck += 1
            await self._readable()
        while True:
            space = self.frames.writable()
            try:
                count = sock.recv_into(space)
            except BlockingIOError:
                space.release()
                if looks:
                    looks = False
                    self.luck = max(self.luck - LUCK_LOST, -LUCK_MAX)
                await self._readable()
                continue
            except ConnectionError:
                if not self.pending:
                    raise
                space.release()
                self.gone = True
                return False
            if looks and self.luck < LUCK_MAX:
                self.luck += 1
            self.drained = count < len(space)
            space.release()
            self.frames.received(count)
            self.gone = count == 0
            return count > 0

    async def _readable(self) -> None:
        self.unbroken = 0
        await trio.lowlevel.wait_readable(self.sock)

    async def _start_requests(self) -> bool:
        """Start every request that has arrived whole and whose turn it is; send what is answered at once.

        False when a frame came that ends the connection, as soon as what came before it has been answered.
        """
        out: Parts = []
        size_bytes = turn = 0
        begun_s = trio.current_time()
        try:
            while (frame := self._next_frame()) is not None:
                result = start(frame, self.connection, self.services)
                self.frames.limit = self.request_bytes_max
                turn += 1
                if isinstance(result, Pending | Large):
                    if out:  # goes before it, and nobody else may be sending then
                        await self._send_before(result, out)
                        out, size_bytes = [], 0
                    if result.keeps_frame:
                        self.frames.detach()
                    self._park(result)
                elif self.pending:
                    self._park(Ready(result))
                elif result is not None:
                    out += result
                    size_bytes += sum(map(len, result))
                long = turn % TURN_LOOKS == 0 and trio.current_time() - begun_s > TURN_S_MAX
                if size_bytes > COALESCED_BYTES_MAX or long or turn % TURN_REQUESTS_MAX == 0:
                    if out:  # else somebody else may be sending
                        await self._send(out)
                        out, size_bytes = [], 0
                    await trio.lowlevel.checkpoint()
                    begun_s = trio.current_time()
        except (Hangup, DecodeError) as error:
            if not self.pending:
                await self._send(out)  # what came right before a frame that cannot be
                raise
            self._park(Ready(None, error))
            return False
        if out:
            self.sending = True
            # who has requests in the same turn computes first, then all answers leave: a peer that is woken by the
            # first one finds others there already, instead of being woken by each (a sixth of the CPU of small ones)
            await trio.lowlevel.cancel_shielded_checkpoint()
            await self._send(out)
        return True

    async def _send_before(self, pending: Pending | Large, out: Parts) -> None:
        try:
            await self._send(out)
        except BaseException:
            pending.drop()
            raise

    def _park(self, answer: Pending | Large | Ready) -> None:
        self.pending.append(answer)
        self.arrived.set()

    def _next_frame(self) -> memoryview | None:
        """The next request, when it may start now; one that may not is held."""
        if self.closing:
            return None
        frame = self.held if self.held is not None else self.frames.next_frame()
        if frame is None:
            return None
        in_turn = not self.pending or (
            frame[:2] == PRODUCE_HEAD and len(self.pending) < PENDING_MAX and self.pending[-1].in_order
        )
        if in_turn:
            self.held = None
            return frame
        if self.held is None:
            self.frames.detach()
            self.held = frame
        return None

    async def _answers(self, nursery: trio.Nursery) -> None:
        """Send parked answers in order, and tell the other task, which may have a request that waited for that."""
        while True:
            while not self.pending:
                self.arrived = trio.Event()
                await self.arrived.wait()
            await self._send_answers()
            self.left.set()
            if self.closing and not self.pending:
                return

    async def _send_answers(self) -> None:
        """Send the oldest answer once it is there, and in one go those behind it that need not wait any more."""
        pending = self.pending
        out = await pending[0].parts() or []
        count = 1
        while count < len(pending) and pending[count].is_ready and sum(map(len, out)) < COALESCED_BYTES_MAX:
            out += await pending[count].parts() or []
            count += 1
        await self._send(out)
        for _ in range(count):
            pending.popleft()

    async def _send(self, parts: Parts) -> None:
        sock = self.sock
        position = 0
        self.sending = True
        while position < len(parts):
            try:
                sent = sock.sendmsg(parts[position : position + SEND_PARTS_MAX])
            except BlockingIOError:
                await trio.lowlevel.wait_writable(sock)
                continue
            self.idle_sweeps = 0
            while position < len(parts) and sent >= len(parts[position]):
                sent -= len(parts[position])
                position += 1
            if sent:
                parts[position] = memoryview(parts[position])[sent:]
        self.sending = False

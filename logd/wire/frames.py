"""Frames of the Kafka protocol: a size of four bytes, a header, a message.

:class:`FrameBuffer` is the receiving side without the socket: the door puts bytes in and takes frames out. The
functions read request headers and write responses, and the reverse for a client. Called by the doors and by
``logd.client``. Never waits, and never trusts a size: memory grows with the bytes that came, not with those promised.
"""

from __future__ import annotations

import struct
from codecs import utf_8_decode

import msgspec

from logd.errors import DecodeError
from logd.wire import schemas
from logd.wire.codec import decode_exact, encode, encode_parts
from logd.wire.decoder import skip_tags
from logd.wire.message import Buffer, Message

API_VERSIONS = 18

STORAGE_BYTES_MIN = 4096
"""What an idle connection holds: nearly every request but Produce fits into it."""

READ_AHEAD_BYTES = 4096
"""How far past the end of a big frame is read: at most this much has to be moved when the frame is done."""

GROWTH = 4
"""Storage grows at most so many times over at once, so that a peer pays for every step with bytes."""

SMALL_FRAMES_BEFORE_SHRINKING = 64
"""After so many frames in a row that would have fitted into a quarter, big storage is given back."""

_read_size = struct.Struct(">i").unpack_from
_read_head = struct.Struct(">hhih").unpack_from
HEAD_BYTES_MIN = 10
"""Key, version, correlation id and the length of the client id."""
_write_request_head = struct.Struct(">ihhih").pack
_write_head_v0 = struct.Struct(">ii").pack
_write_head_v1 = struct.Struct(">iix").pack

_FOREIGN = {
    b"GET ": "HTTP",
    b"POST": "HTTP",
    b"PUT ": "HTTP",
    b"HEAD": "HTTP",
    b"DELE": "HTTP",
    b"OPTI": "HTTP",
    b"PATC": "HTTP",
    b"CONN": "HTTP",
    b"PRI ": "HTTP/2",
    b"SSH-": "SSH",
}


class BadFrameSize(DecodeError):
    """A frame whose size is negative or zero."""

    def __init__(self, size: int) -> None:
        super().__init__(f"a frame of {size} bytes: the size must be positive")
        self.size = size


class FrameTooLarge(DecodeError):
    """A frame over the limit; `foreign` names the protocol that these four bytes look like, if one does."""

    def __init__(self, size: int, limit: int) -> None:
        self.size = size
        self.limit = limit
        self.foreign = foreign_protocol(size)
        hint = f"; it looks like {self.foreign}" if self.foreign else ""
        super().__init__(f"a frame of {size} bytes is over the limit of {limit}{hint}")


def foreign_protocol(size: int) -> str | None:
    """The protocol whose first four bytes, read as a size, are `size`: "HTTP", "TLS", "SSH", or None."""
    first = size.to_bytes(4, "big", signed=True)
    if first[0] == 0x16 and first[1] == 3:
        return "TLS"
    return _FOREIGN.get(first)


class RequestHead(msgspec.Struct, frozen=True, gc=False):
    """The header of a request; `body` is the position of the message in the frame."""

    api_key: int
    api_version: int
    correlation_id: int
    client_id: str | None
    body: int


def decode_request_head(frame: Buffer) -> RequestHead:
    """The header at the start of `frame` (which does not include the size).

    Of an API or a version that logd does not know, at least key, version and correlation id are given; the rest as far
    as it can be read (ApiVersions with a too new version has to be answered).

    :raises DecodeError: for a frame that is too short, and for a bad header of a known API and version.
    """
    try:
        api_key, api_version, correlation_id, length = _read_head(frame)
    except struct.error as error:
        return _cut_head(frame, error)
    api = schemas.APIS.get(api_key)
    known = api is not None and api.versions[0] <= api_version <= api.versions[1]
    view = frame if type(frame) is memoryview else memoryview(frame)
    try:
        client_id, end = _client_id(view, length)
        if api is not None and api_version >= api.flexible:
            count = view[end]
            end += 1
            if count:
                end = skip_tags(view, end, len(view), count, "request header")
    except (DecodeError, IndexError, UnicodeDecodeError) as error:
        if known:
            raise DecodeError(f"request header of {schemas.api_name(api_key)} v{api_version}: {error}") from error
        client_id, end = None, len(view)
    return RequestHead(api_key, api_version, correlation_id, client_id, end)


def looks_like_request(first: Buffer) -> bool:
    """Whether these HEAD_BYTES_MIN bytes begin a request of an API and a version that there are."""
    api_key, api_version, _, length = _read_head(first)
    api = schemas.APIS.get(api_key)
    return api is not None and api.versions[0] <= api_version <= api.versions[1] and length >= -1


def _cut_head(frame: Buffer, error: struct.error) -> RequestHead:
    """The head of a frame too short for a client id: only an API or version that is not known may have it so."""
    if len(frame) >= 8:
        api_key, api_version, correlation_id = struct.unpack_from(">hhi", frame)
        api = schemas.APIS.get(api_key)
        if api is None or not api.versions[0] <= api_version <= api.versions[1]:
            return RequestHead(api_key, api_version, correlation_id, None, len(frame))
    raise DecodeError(f"a request of {len(frame)} bytes is too short for a header") from error


def _client_id(view: memoryview, length: int) -> tuple[str | None, int]:
    if length == -1:
        return None, 10
    end = 10 + length
    if length < 0 or end > len(view):
        raise DecodeError(f"client id of {length} bytes, {len(view) - 10} remain")
    return utf_8_decode(view[10:end], "strict", True)[0], end


def response_parts(api_key: int, api_version: int, correlation_id: int, message: Message) -> list[Buffer]:
    """A whole response, size and header included, as buffers for one ``sendmsg``.

    ApiVersions is always answered with header v0, so that a client can read it whatever versions it knows.

    :raises EncodeError: see :func:`logd.wire.codec.encode_parts`.
    """
    parts = encode_parts(message, api_version)
    bare = api_key == API_VERSIONS or api_version < schemas.APIS[api_key].flexible
    size = sum(map(len, parts)) if len(parts) > 1 else len(parts[0])
    if bare:
        parts[0] = _write_head_v0(size + 4, correlation_id) + parts[0]
    else:
        parts[0] = _write_head_v1(size + 5, correlation_id) + parts[0]
    return parts


def request_bytes(
    api_key: int, api_version: int, correlation_id: int, client_id: str | None, message: Message
) -> bytes:
    """A whole request, size and header included.

    :raises EncodeError: see :func:`logd.wire.codec.encode`.
    """
    body = encode(message, api_version)
    name = b"" if client_id is None else client_id.encode()
    tags = b"\0" if api_version >= schemas.APIS[api_key].flexible else b""
    size = 10 + len(name) + len(tags) + len(body)
    length = -1 if client_id is None else len(name)
    head = _write_request_head(size, api_key, api_version, correlation_id, length)
    return b"".join((head, name, tags, body))


def decode_response(api_key: int, api_version: int, frame: Buffer) -> tuple[int, Message]:
    """(correlation id, message) of the response `frame` (without the size) to a request of this API and version.

    :raises DecodeError: for anything that is not exactly such a response.
    """
    view = memoryview(frame)
    if len(view) < 5:
        raise DecodeError(f"a response of {len(view)} bytes is too short for a header")
    correlation_id: int = _read_size(view)[0]
    body = 4
    if api_key != API_VERSIONS and api_version >= schemas.APIS[api_key].flexible:
        body = 5
        if view[4]:
            try:
                body = skip_tags(view, 5, len(view), view[4], "response header")
            except IndexError as error:
                raise DecodeError("the response ends inside its header") from error
    return correlation_id, decode_exact(schemas.response_class(api_key), api_version, view, body)


class FrameBuffer:
    """The receiving side of one connection: bytes in, frames out, in one piece of storage.

    Call :meth:`next_frame` until it returns None, then receive into :meth:`writable` and tell :meth:`received`.
    A frame is a view of the storage, valid until the next :meth:`writable`; :meth:`detach` keeps the views made so
    far alive for good. `limit` is the largest frame in bytes and may be changed at any time.

    :param request_bytes_max: the limit from the first frame on whose beginning is that of a request, if it is another:
        not every client asks for the versions first on a new connection, and its first words may be a big Produce.
    """

    def __init__(self, frame_bytes_max: int, request_bytes_max: int = 0) -> None:
        self.limit = frame_bytes_max
        self._request_bytes_max = request_bytes_max
        self._storage = bytearray(STORAGE_BYTES_MIN)
        self._view = memoryview(self._storage)
        self._start = 0
        self._end = 0
        self._wanted = 4
        self._small_frames = 0

    @property
    def storage_bytes(self) -> int:
        """How much memory the buffer holds."""
        return len(self._storage)

    @property
    def pending_bytes(self) -> int:
        """How many bytes have come that are not in a frame taken yet: not zero at the end is a cut frame."""
        return self._end - self._start

    def next_frame(self) -> memoryview | None:
        """The next frame without its size, or None until more bytes come.

        :raises FrameTooLarge, BadFrameSize: the connection cannot go on.
        """
        start = self._start
        have = self._end - start
        if have < 4:
            self._wanted = 4
            return None
        size: int = _read_size(self._storage, start)[0]
        if (size > self.limit or size <= 0) and not self._may_be_larger(size, have - 4):
            return None
        if have < size + 4:
            self._wanted = size + 4
            return None
        self._start = end = start + size + 4
        self._wanted = 4
        if size * 4 > len(self._storage):
            self._small_frames = 0
        else:
            self._small_frames += 1
        return self._view[start + 4 : end]

    def _may_be_larger(self, size: int, have: int) -> bool:
        """Whether a frame over the limit is a request; False while too little has come to say so.

        :raises FrameTooLarge, BadFrameSize: it is none, or too large for one.
        """
        if size <= 0:
            raise BadFrameSize(size)
        if size > self._request_bytes_max:
            raise FrameTooLarge(size, self.limit)
        if have < HEAD_BYTES_MIN:
            self._wanted = 4 + HEAD_BYTES_MIN
            return False
        if not looks_like_request(self._view[self._start + 4 : self._end]):
            raise FrameTooLarge(size, self.limit)
        self.limit = self._request_bytes_max
        return True

    def writable(self) -> memoryview:
        """Where the next bytes belong: never empty. Ends the life of the frames taken before."""
        if self._start == self._end:
            self._start = self._end = 0
            if self._small_frames >= SMALL_FRAMES_BEFORE_SHRINKING:
                self.shrink()
        capacity = len(self._storage)
        if self._start + self._wanted > capacity or self._end == capacity:
            self._make_room()
            capacity = len(self._storage)
        if self._wanted > STORAGE_BYTES_MIN:
            capacity = min(capacity, self._start + self._wanted + READ_AHEAD_BYTES)
        return self._view[self._end : capacity]

    def received(self, count: int) -> None:
        """Tells that `count` bytes have been put at the start of the last :meth:`writable`."""
        assert 0 <= count <= len(self._storage) - self._end
        self._end += count

    def detach(self) -> None:
        """Gives the storage up to the views that are still held; later bytes go to new storage."""
        self._move(len(self._storage))

    def shrink(self) -> None:
        """Gives big storage back when nothing is pending, as a door may wish when a connection goes idle."""
        self._small_frames = 0
        if self._start == self._end and len(self._storage) > STORAGE_BYTES_MIN:
            self._move(STORAGE_BYTES_MIN)

    def _make_room(self) -> None:
        """Moves what is pending to the front, into bigger storage when it needs and has earned it."""
        have = self._end - self._start
        capacity = len(self._storage)
        if self._wanted > capacity and have * 2 > capacity:
            self._move(min(self._wanted + READ_AHEAD_BYTES, capacity * GROWTH))
        elif self._start:
            self._view[:have] = self._view[self._start : self._end]
            self._start, self._end = 0, have

    def _move(self, capacity: int) -> None:
        have = self._end - self._start
        storage = bytearray(capacity)
        storage[:have] = self._view[self._start : self._end]
        self._storage, self._view = storage, memoryview(storage)
        self._start, self._end = 0, have

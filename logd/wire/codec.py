"""Messages to bytes and back.

:func:`decode`, :func:`decode_exact`, :func:`encode` and :func:`encode_parts` work on any class of ``wire/schemas`` in
any of its versions; the code for a (class, version) is compiled when it is first used and kept. Called by
``frames.py``, and by all who keep protocol structures inside records or assignments. Never touches a socket, and
decoding never raises anything but DecodeError, whatever the bytes.
"""

from __future__ import annotations

import struct
from typing import TypeVar

from logd.errors import DecodeError
from logd.wire.decoder import ELEMENTS_MAX, Decoder, compile_decoder
from logd.wire.encoder import Encoder, compile_encoder
from logd.wire.message import Buffer, Message

M = TypeVar("M", bound=Message)

_decoders: dict[tuple[type[Message], int], Decoder] = {}
_encoders: dict[tuple[type[Message], int], Encoder] = {}


class EncodeError(ValueError):
    """A message that its version cannot carry: null in a field that must not be, a number out of range. Our bug."""


def decode(cls: type[M], version: int, data: Buffer, start: int = 0, elements_max: int = ELEMENTS_MAX) -> tuple[M, int]:
    """The `cls` that stands at `start` of `data`, and the position after it.

    ``records`` fields are views of `data`; all else is copied.

    :param elements_max: how many elements all its arrays may have together.
    :raises DecodeError: for bytes that are no such message, and for a version that `cls` has not.
    """
    try:
        decoder = _decoders[cls, version]
    except KeyError:
        decoder = _decoder(cls, version)
    view = data if type(data) is memoryview else memoryview(data)
    try:
        return decoder(view, start, len(view), elements_max)
    except (struct.error, IndexError) as error:
        raise DecodeError(f"{cls.__name__} v{version}: the bytes end inside a field") from error
    except UnicodeDecodeError as error:
        raise DecodeError(f"{cls.__name__} v{version}: a string is not UTF-8: {error.reason}") from error


def decode_exact(cls: type[M], version: int, data: Buffer, start: int = 0) -> M:
    """Like :func:`decode`, for bytes that must end with the message.

    :raises DecodeError: also for bytes left over.
    """
    message, end = decode(cls, version, data, start)
    if end != len(data):
        raise DecodeError(f"{cls.__name__} v{version}: {len(data) - end} bytes left over after the message")
    return message


def encode(message: Message, version: int, head: bytes = b"") -> bytes:
    """`message` in `version`, with all records copied in, behind ``head``.

    :raises EncodeError: for a version that it has not, or a value that the version cannot carry.
    """
    pieces: list[Buffer] = [head]
    parts: list[Buffer] = []
    _encode_into(message, version, pieces, parts)
    return b"".join(parts + pieces if parts else pieces)


def encode_parts(message: Message, version: int) -> list[Buffer]:
    """`message` in `version`, as buffers (one at least) to be sent one after the other.

    A ``records`` field may hold one buffer or a list of them; big ones become parts of their own, uncopied, and
    must not change until the parts are sent.

    :raises EncodeError: as :func:`encode` does.
    """
    pieces: list[Buffer] = []
    parts: list[Buffer] = []
    _encode_into(message, version, pieces, parts)
    if pieces or not parts:
        parts.append(b"".join(pieces))
    return parts


def _encode_into(message: Message, version: int, pieces: list[Buffer], parts: list[Buffer]) -> None:
    """Add what goes into one buffer to ``pieces``; what is big moves them to ``parts`` and follows there."""
    try:
        encoder = _encoders[type(message), version]
    except KeyError:
        encoder = _encoder(type(message), version)
    try:
        encoder(message, pieces, parts)
    except (struct.error, AttributeError, TypeError, UnicodeEncodeError) as error:
        raise EncodeError(f"{type(message).__name__} v{version}: {error}") from error


def has_version(cls: type[Message], version: int) -> bool:
    """Whether there is a `version` of `cls`."""
    first, last = cls.VERSIONS
    return first <= version <= last


def _decoder(cls: type[Message], version: int) -> Decoder:
    if not has_version(cls, version):
        raise DecodeError(f"{cls.__name__} has no version {version}; it has {cls.VERSIONS[0]} to {cls.VERSIONS[1]}")
    return _decoders.setdefault((cls, version), compile_decoder(cls, version))


def _encoder(cls: type[Message], version: int) -> Encoder:
    if not has_version(cls, version):
        raise EncodeError(f"{cls.__name__} has no version {version}; it has {cls.VERSIONS[0]} to {cls.VERSIONS[1]}")
    return _encoders.setdefault((cls, version), compile_encoder(cls, version))

"""Records of `__transaction_state` as bytes and back: PURE.

The forms are Apache Kafka's, so that its own tools and brokers can read the topic: a key is an int16 that names the
record's type and a body in version 0; a value is an int16 version and a body. Called by the runtime on the way to the
log and by the loader on the way back.
"""

from __future__ import annotations

from logd.coordinators.effects import Record
from logd.errors import DecodeError
from logd.wire.codec import decode, encode
from logd.wire.schemas.transaction_records import TransactionLogKey, TransactionLogValue

VALUE_VERSION = 1
"""Written while transaction.version is 1 or more; 0 has no room for the ids before and after."""

_KEY_TYPE = 0
_KEY_HEAD = _KEY_TYPE.to_bytes(2, "big")


def to_bytes(record: Record) -> tuple[bytes, bytes | None]:
    """The key and value of one record, as the log keeps them."""
    key = encode(record.key, 0, _KEY_HEAD)
    if record.value is None:
        return key, None
    version = record.value_version
    return key, encode(record.value, version, version.to_bytes(2, "big"))


def from_bytes(key: bytes, value: bytes | None) -> Record | None:
    """One record read back; None for a type that this version of logd does not know.

    :raises DecodeError: the bytes are not what they claim to be.
    """
    if len(key) < 2:
        raise DecodeError(f"a key of {len(key)} bytes has no record type")
    if int.from_bytes(key[:2], "big") != _KEY_TYPE:
        return None
    key_message, _ = decode(TransactionLogKey, 0, key, 2)
    if value is None:
        return Record(key_message)
    version = int.from_bytes(value[:2], "big")
    lowest, highest = TransactionLogValue.VERSIONS
    if len(value) < 2 or not lowest <= version <= highest:
        raise DecodeError(f"a TransactionLogValue of version {version} is newer than this logd knows ({highest})")
    value_message, _ = decode(TransactionLogValue, version, value, 2)
    return Record(key_message, value_message, version)

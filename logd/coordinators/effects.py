"""What a coordinator's machine may ask for: PURE values, carried out by :mod:`logd.coordinators.runtime`.

A machine never appends, answers or sets a timer itself; it yields these and the runtime does it, in an order that
makes a step atomic: all appends first, as one batch, then the replay, then timers, then replies. Owned by nobody,
made by the machines, read by the runtime and by the golden transcripts of the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Final, NamedTuple

import msgspec

from logd.chronicle import Note
from logd.errors import Refused
from logd.wire.message import Message

TOMBSTONES_BYTES_MAX: Final = 256 * 1024
"""What the keys of one batch of a sweep may take: a step may sweep twice, and names may have 32 KiB each."""


class Record(msgspec.Struct, frozen=True):
    """One record of a coordinator's topic, as values.

    :param key: a key message of ``logd.wire.schemas.group_records``; its class decides the record's type.
    :param value: the value message, or None for a tombstone.
    :param value_version: version that the value is written in.
    """

    key: Message
    value: Message | None = None
    value_version: int = 0


class Append(msgspec.Struct, frozen=True):
    """Write these records. All appends of one step make one batch: all of it is written, or none.

    :param producer: (producer id, epoch) of the transaction that they belong to and that decides whether they count.
        All appends of one step have the same.
    """

    records: tuple[Record, ...]
    producer: tuple[int, int] | None = None


def one_batch(tombstones: Iterable[Record], records_max: int) -> tuple[tuple[Record, ...], bool]:
    """As many tombstones as one batch of a sweep takes, at least one if there is any; and whether these are all."""
    taken: list[Record] = []
    size = 0
    for record in tombstones:
        size += _names_bytes(record.key)
        if taken and (len(taken) >= records_max or size > TOMBSTONES_BYTES_MAX):
            return tuple(taken), False
        taken.append(record)
    return tuple(taken), True


def _names_bytes(key: Message) -> int:
    """What the names in a key take; all else in it is small beside a long name."""
    values = (getattr(key, name) for name in key.__struct_fields__)
    return sum(len(value.encode()) for value in values if isinstance(value, str))


class Reply(msgspec.Struct, frozen=True):
    """Answer a parked call once everything written so far is committed.

    :param to: the call, exactly as it came in the event; the machine never looks inside.
    :param message: the answer, or why there is none.
    """

    to: object
    message: Message | Refused


class Arm(msgspec.Struct, frozen=True):
    """Hand `event` to the machine in `after_ms` milliseconds. The same key again replaces the earlier one.

    :param steady: with a time that does not believe a leap of the clock: for what forgets by age.
    """

    key: Hashable
    after_ms: int
    event: object
    steady: bool = False


class Disarm(msgspec.Struct, frozen=True):
    """Forget the deadline of `key`, if there is one."""

    key: Hashable


class SendMarkers(msgspec.Struct, frozen=True):
    """Once everything written so far is committed, write the end of a transaction into each of its partitions.

    :param producer: (producer id, epoch) that the markers carry.
    :param version: transaction.version of the transaction.
    :param partitions: (topic, index) of each.
    :param written: the event to hand to the machine when each has its marker, committed, or is gone.
    """

    producer: tuple[int, int]
    committed: bool
    version: int
    partitions: tuple[tuple[str, int], ...]
    written: object


class TakeProducerId(msgspec.Struct, frozen=True):
    """Have a producer id that nobody ever had, which may take a write, then hand `event` to the machine with it.

    :param event: has a field `new_producer_id`.
    """

    event: object


class AtOnce(NamedTuple):
    """What an event comes to that can be carried out without parking anybody.

    :param records: keys and values, as the log keeps them.
    :param keep: takes them into the hard state as a replay would; it is given the offset of the first.
    :param effects: what else is to be done; no appends and no replies.
    """

    records: Sequence[tuple[bytes, bytes | None]]
    keep: Callable[[int], None]
    effects: tuple[Effect, ...]


Effect = Append | Reply | Arm | Disarm | SendMarkers | TakeProducerId | Note

"""Every message in every version, there and back, against kio and kafka-python."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from logd.wire.codec import decode, decode_exact, encode, encode_parts
from logd.wire.schemas import OWN_KEYS_FROM
from tests.wire.messages import Case, api_cases, check_all, other_cases
from tests.wire.oracles import assert_same, kafka_python_class, kio_class, kio_decode, kio_encode

EXAMPLES = 4
KAFKAS = [case for case in api_cases() if case.api_key < OWN_KEYS_FROM]
OWN = [case for case in api_cases() if case.api_key >= OWN_KEYS_FROM]


@pytest.mark.parametrize("case", KAFKAS, ids=str)
def test_both_ways_against_the_oracles(case: Case) -> None:
    """What we write, both oracles read as we meant it; what they write of it is what we wrote, and we read it back."""
    foreign = kafka_python_class(case)
    for version in case.versions:
        check_all(case, version, EXAMPLES, partial(check_oracles, case, version, kio_class(case, version), foreign))


def check_oracles(case: Case, version: int, kio: Any, foreign: Any, message: Any) -> None:
    """One message through our codec, kio and (where it knows the message) kafka-python."""
    flexible = version >= case.cls.FLEXIBLE
    data = encode(message, version)
    assert decode_exact(case.cls, version, data) == message
    entity = kio_decode(kio, data)
    assert_same(message, entity, version, flexible)
    assert kio_encode(kio, entity) == data
    if foreign is not None:
        theirs = foreign.decode(data, version=version)
        assert_same(message, theirs, version, flexible)
        assert bytes(theirs.encode()) == data


@pytest.mark.parametrize("case", [*other_cases(), *OWN], ids=str)
def test_messages_without_an_oracle_there_and_back(case: Case) -> None:
    """Headers, assignments, records of coordinators and logd's own come back as they went, and leave the rest alone."""
    for version in case.versions:
        check_all(case, version, EXAMPLES, partial(check_surrounded, case, version))


def check_surrounded(case: Case, version: int, message: Any) -> None:
    """One message with other bytes round it."""
    data = encode(message, version)
    assert decode_exact(case.cls, version, data) == message
    assert decode(case.cls, version, b"head" + data + b"tail", 4) == (message, len(data) + 4)


@pytest.mark.parametrize("case", api_cases(), ids=str)
def test_defaults_can_be_written(case: Case) -> None:
    """A message with nothing set can be written in every version, and parts joined are the bytes."""
    for version in case.versions:
        message = case.cls()
        data = encode(message, version)
        assert decode_exact(case.cls, version, data) == message
        assert b"".join(encode_parts(message, version)) == data

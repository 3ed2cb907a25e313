"""The committed table of facts: that it is what the generator makes, and that it makes sense by itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from logd.wire import schemas
from logd.wire.facts import FORMATS, fields_of, span, struct_bytes_min
from logd.wire.message import Message
from tests.wire.messages import Case, api_cases, other_cases
from tools import apache_kafka
from tools import schemas as generator

COMMITTED = Path(schemas.__file__).parent
ALL = [*api_cases(), *other_cases()]
KINDS = {*FORMATS, "string", "bytes", "records", "plain_string"}

ADVERTISED = {
    0: ("Produce", 0, 13),
    1: ("Fetch", 4, 18),
    3: ("Metadata", 0, 13),
    18: ("ApiVersions", 0, 4),
    22: ("InitProducerId", 0, 5),
    78: ("ShareFetch", 1, 2),
}
"""What Apache Kafka 4.3 itself advertises, where a rule beside the specifications is at work."""


def structures(cls: type[Message], version: int) -> Iterator[type[Message]]:
    """`cls` and all structures in it that `version` has."""
    yield cls
    for field in fields_of(cls, version, version >= cls.FLEXIBLE):
        if field.present and field.struct is not None:
            yield from structures(field.struct, version)


def test_the_committed_table_is_what_the_generator_makes() -> None:
    """Generated again from Kafka's own jars, the package comes out the same."""
    libs = apache_kafka.installed_libs()
    if libs is None:
        pytest.skip("no Kafka jars here: tools/apache_kafka.py fetches them, LOGD_KAFKA_LIBS names a directory")
    made = generator.generate(generator.read_source(libs))
    assert set(made) == {file.name for file in COMMITTED.glob("*.py")}
    for name, text in made.items():
        committed = (COMMITTED / name).read_text()
        assert ast.dump(ast.parse(text)) == ast.dump(ast.parse(committed)), f"{name} is not what the generator makes"


def test_advertised_versions() -> None:
    """Produce from 0, unstable versions not at all, everything within what can be decoded."""
    for key, (name, first, last) in ADVERTISED.items():
        assert (schemas.APIS[key].name, *schemas.APIS[key].advertised) == (name, first, last)
    for key, api in schemas.APIS.items():
        assert api.key == key
        assert 0 <= api.versions[0] <= api.versions[1] == schemas.request_class(key).VERSIONS[1]
        assert api.advertised[0] <= api.advertised[1] <= api.versions[1]
        assert api.advertised[0] == api.versions[0] or key == 0
    assert tuple(sorted(schemas.API_KEYS)) == schemas.API_KEYS
    assert schemas.api_name(3) == "Metadata"
    assert schemas.api_name(4711) == "API 4711"
    with pytest.raises(KeyError):
        schemas.request_class(4711)


def test_requests_and_responses_have_the_same_versions() -> None:
    """A response exists for every version of the request, flexible from the same one, as the index says."""
    for key, api in schemas.APIS.items():
        request, response = schemas.request_class(key), schemas.response_class(key)
        assert request.VERSIONS == response.VERSIONS == api.versions
        assert request.FLEXIBLE == response.FLEXIBLE == api.flexible


@pytest.mark.parametrize("case", ALL, ids=str)
def test_facts_make_sense(case: Case) -> None:
    """Known types, ordered versions, names as in the class and in its order, tags that are one for each field."""
    for version in case.versions:
        flexible = version >= case.cls.FLEXIBLE
        for cls in structures(case.cls, version):
            assert [name for name, *_ in cls.FIELDS] == list(cls.__struct_fields__)
            fields = [field for field in fields_of(cls, version, flexible) if field.present]
            tags = [field.tag for field in fields if field.tag >= 0]
            assert len(set(tags)) == len(tags)
            assert flexible or not tags
            assert sorted(tags) == list(range(len(tags)))
            assert struct_bytes_min(cls, version, flexible) >= 1
            for _, kind, versions, nullable, _tag in cls.FIELDS:
                item = kind.removeprefix("[]")
                assert item in KINDS or item[0].isupper()
                assert span(versions)[0] <= span(versions)[1]
                if nullable != "none":
                    assert span(nullable)[0] <= span(nullable)[1]


def test_every_field_is_in_some_version() -> None:
    """No field of a message is only a leftover."""
    for case in api_cases():
        seen: dict[type[Message], set[str]] = {}
        for version in case.versions:
            for cls in structures(case.cls, version):
                fields = fields_of(cls, version, version >= case.cls.FLEXIBLE)
                seen.setdefault(cls, set()).update(field.name for field in fields if field.present)
        leftover = {(cls.__name__, name) for cls, names in seen.items() for name in set(cls.__struct_fields__) - names}
        assert leftover <= LEFTOVERS


LEFTOVERS = {("FetchPartition", "partition_max_bytes")}
"""Of ShareFetch v0, which was taken back."""


def test_defaults_are_not_shared() -> None:
    """A list, or a structure that can change, is never the same object in two messages."""
    for case in ALL:
        first, second = case.cls(), case.cls()
        for name in case.cls.__struct_fields__:
            mine, other = getattr(first, name), getattr(second, name)
            if isinstance(mine, list) or (isinstance(mine, Message) and not mine.__struct_config__.frozen):
                assert mine is not other


def test_nothing_is_imported_before_it_is_asked_for() -> None:
    """The index and the frames come without a single message class."""
    program = (
        "import sys, logd.wire.frames;"
        "print([name for name in sys.modules if name.startswith('logd.wire.schemas.') or name in ('cramjam', 'trio')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_names_and_versions_of_the_generator() -> None:
    """The few rules that the generator has of its own."""
    for name, expected in (
        ("TopicData", "topic_data"),
        ("V3AndBelowTopics", "v3_and_below_topics"),
        ("timeoutMs", "timeout_ms"),
        ("KRaftVersionFeature", "k_raft_version_feature"),
        ("LastKnownElr", "last_known_elr"),
    ):
        assert generator.snake(name) == expected
    assert [generator.span(each) for each in ("3+", "0-2", "7", "none")] == [(3, 32767), (0, 2), (7, 7), (0, -1)]

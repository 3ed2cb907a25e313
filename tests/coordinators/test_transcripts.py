"""Golden transcripts: each file in golden/ is a story of commands and of every effect that they had.

A line that begins with ``>`` is a command, ``#`` a remark; what follows a command is what it did. Run with
``LOGD_REWRITE_GOLDEN=1`` to write the files anew, and review them as a diff.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from logd.coordinators.effects import Effect
from logd.coordinators.events import TopicsDeleted, TopicsFound
from logd.coordinators.rebalance import GroupLimits
from logd.wire.schemas.delete_groups import DeleteGroupsRequest
from logd.wire.schemas.describe_groups import DescribeGroupsRequest
from logd.wire.schemas.list_groups import ListGroupsRequest
from logd.wire.schemas.offset_delete import (
    OffsetDeleteRequest,
    OffsetDeleteRequestPartition,
    OffsetDeleteRequestTopic,
)
from logd.wire.schemas.offset_fetch import OffsetFetchRequestGroup, OffsetFetchRequestTopics
from tests.coordinators.shard import Shard, lines

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.txt")), ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    """The machine answers a story step by step as it is written down."""
    written = path.read_text()
    told = _tell(written)
    if os.environ.get("LOGD_REWRITE_GOLDEN"):
        path.write_text(told)
    assert told == written


def _tell(text: str) -> str:
    shard = Shard()
    told: list[str] = []
    for line in text.splitlines():
        if line.startswith("> "):
            told.append(line)
            shard, effects = _run(shard, line[2:])
            told += lines(effects)
            shard.machine.check()
        elif not line or line.startswith("#"):
            told.append(line)
    return "\n".join(told) + "\n"


def _run(shard: Shard, command: str) -> tuple[Shard, list[Effect]]:
    verb, *words = shlex.split(command)
    named = dict(word.split("=", 1) for word in words if "=" in word)
    plain = [word for word in words if "=" not in word]
    match verb:
        case "limits":
            limits = GroupLimits(**{name: int(value) for name, value in named.items()})
            return Shard(limits, shard.log, shard.ids), []
        case "advance":
            return shard, shard.advance(int(plain[0]))
        case "fail":
            shard.failing = plain[0] == "on"
            return shard, []
        case "reload":
            return shard, shard.reload()
        case "topics":
            return shard, _topics(shard, plain)
    return shard, _REQUESTS[verb](shard, plain, named)


def _topics(shard: Shard, plain: list[str]) -> list[Effect]:
    if plain[0] == "deleted":
        return shard.step(TopicsDeleted(frozenset(plain[1:])))
    return shard.step(TopicsFound(dict.fromkeys(plain[1:], bytes(16))))


def _join(shard: Shard, plain: list[str], named: dict[str, str]) -> list[Effect]:
    return shard.join(
        plain[0],
        named.get("group", "g"),
        named.get("member", ""),
        instance=named.get("instance"),
        protocols=tuple(each for each in named.get("protocols", "range").split(",") if each),
        topics=tuple(named.get("topics", "t").split(",")),
        kind=named.get("kind", "consumer"),
        session_ms=int(named.get("session", 10_000)),
        rebalance_ms=int(named.get("rebalance", 30_000)),
        version=int(named.get("version", 9)),
        client=named.get("client", "c"),
    )


def _sync(shard: Shard, plain: list[str], named: dict[str, str]) -> list[Effect]:
    given = dict(each.split(":") for each in named.get("assign", "").split(",") if each)
    return shard.sync(
        plain[0],
        named["member"],
        int(named["generation"]),
        named.get("group", "g"),
        instance=named.get("instance"),
        assignments={member: data.encode() for member, data in given.items()},
        protocol=named.get("protocol"),
        kind=named.get("kind"),
    )


def _heartbeat(shard: Shard, plain: list[str], named: dict[str, str]) -> list[Effect]:
    group, instance = named.get("group", "g"), named.get("instance")
    return shard.heartbeat(plain[0], named["member"], int(named["generation"]), group, instance=instance)


def _leave(shard: Shard, plain: list[str], named: dict[str, str]) -> list[Effect]:
    members = [(each, None) for each in named.get("members", "").split(",") if each]
    instances = [("", each) for each in named.get("instances", "").split(",") if each]
    return shard.leave(plain[0], *members, *instances, group=named.get("group", "g"))


def _commit(shard: Shard, plain: list[str], named: dict[str, str]) -> list[Effect]:
    parts = [each.split(":") for each in named["offsets"].split(",")]
    return shard.commit(
        plain[0],
        named.get("member", ""),
        int(named.get("generation", -1)),
        {(topic, int(index)): int(offset) for topic, index, offset in parts},
        named.get("group", "g"),
        instance=named.get("instance"),
        metadata=named.get("metadata", "").replace("LONG", "m" * 4097),
        retention_ms=int(named.get("retention", -1)),
        version=int(named.get("version", 9)),
    )


def _fetch(shard: Shard, plain: list[str], named: dict[str, str]) -> list[Effect]:
    parts = [each.split(":") for each in named["partitions"].split(",")] if "partitions" in named else None
    topics = None if parts is None else [OffsetFetchRequestTopics(topic, bytes(16), [int(i)]) for topic, i in parts]
    return shard.fetch(plain[0], OffsetFetchRequestGroup(named.get("group", "g"), topics=topics))


def _delete_offsets(shard: Shard, plain: list[str], named: dict[str, str]) -> list[Effect]:
    parts = [each.split(":") for each in named["partitions"].split(",")]
    topics = [OffsetDeleteRequestTopic(topic, [OffsetDeleteRequestPartition(int(i))]) for topic, i in parts]
    return shard.ask(plain[0], OffsetDeleteRequest(named.get("group", "g"), topics), 0)


def _delete(shard: Shard, plain: list[str], named: dict[str, str]) -> list[Effect]:
    return shard.ask(plain[0], DeleteGroupsRequest(plain[1:]), 2)


def _describe(shard: Shard, plain: list[str], named: dict[str, str]) -> list[Effect]:
    return shard.ask(plain[0], DescribeGroupsRequest(plain[1:]), int(named.get("version", 6)))


def _list(shard: Shard, plain: list[str], named: dict[str, str]) -> list[Effect]:
    states = [each for each in named.get("states", "").split(",") if each]
    types = [each for each in named.get("types", "").split(",") if each]
    return shard.ask(plain[0], ListGroupsRequest(states, types), 5)


_REQUESTS = {
    "join": _join,
    "sync": _sync,
    "heartbeat": _heartbeat,
    "leave": _leave,
    "commit": _commit,
    "fetch": _fetch,
    "delete-offsets": _delete_offsets,
    "delete": _delete,
    "describe": _describe,
    "list": _list,
}

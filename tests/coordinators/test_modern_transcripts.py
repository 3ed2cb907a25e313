"""Golden transcripts of groups of the consumer protocol: golden_modern/ has stories of commands and effects.

A line that begins with ``>`` is a command, ``#`` a remark; what follows a command is what it did. Run with
``LOGD_REWRITE_GOLDEN=1`` to write the files anew, and review them as a diff.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from logd.chronicle import Note
from logd.coordinators.effects import Append, Arm, Disarm, Effect, Record, Reply
from logd.errors import Refused
from logd.wire.message import Message
from logd.wire.schemas.consumer_group_heartbeat import ConsumerGroupHeartbeatRequest
from logd.wire.schemas.seek_group import SeekGroupPartition, SeekGroupRequest, SeekGroupTopic
from tests.coordinators.modern_shard import ModernShard, owned

GOLDEN = Path(__file__).parent / "golden_modern"


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.txt")), ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    """The machine answers a story step by step as it is written down."""
    written = path.read_text()
    told = _tell(written)
    if os.environ.get("LOGD_REWRITE_GOLDEN"):
        path.write_text(told)
    assert told == written


def _tell(text: str) -> str:
    shard = ModernShard(t=4)
    told: list[str] = []
    for line in text.splitlines():
        if line.startswith("> "):
            told.append(line)
            told += _lines(_run(shard, line[2:]))
            shard.machine.check()
        elif not line or line.startswith("#"):
            told.append(line)
    return "\n".join(told) + "\n"


def _run(shard: ModernShard, command: str) -> list[Effect]:
    verb, *words = shlex.split(command)
    named = dict(word.split("=", 1) for word in words if "=" in word)
    plain = [word for word in words if "=" not in word]
    shard.calls += 1
    call = f"call{shard.calls}"
    match verb:
        case "beat":
            return _beat(shard, call, plain[0], int(plain[1]), named)
        case "join":
            return shard.join(call, member=named.get("member", ""), version=int(named.get("version", 9)))
        case "sync":
            return shard.sync(call, plain[0], int(plain[1]))
        case "heartbeat":
            return shard.heartbeat(call, plain[0], int(plain[1]))
        case "leave":
            return shard.leave(call, (plain[0], None))
        case "commit":
            return shard.commit(call, plain[0], int(plain[1]), {("t", 0): int(plain[2])})
        case "seek":
            topics = [SeekGroupTopic("t", [SeekGroupPartition(0, int(plain[0]))])]
            return shard.ask(call, SeekGroupRequest("g", topics), 0)
        case "topics":
            return shard.tell(**{name: int(count) for name, count in named.items()})
        case "advance":
            return shard.advance(int(plain[0]))
        case "reload":
            return shard.reload()
    raise AssertionError(f"no such command: {command}")


def _beat(shard: ModernShard, call: str, member: str, epoch: int, named: Mapping[str, str]) -> list[Effect]:
    fields: dict[str, Any] = {}
    if epoch == 0:
        fields = {"rebalance_timeout_ms": 5_000, "topic_partitions": [], "subscribed_topic_names": ["t"]}
    if "has" in named:
        indexes = [int(index) for index in named["has"].split(",") if index]
        fields["topic_partitions"] = owned(t=indexes) if indexes else []
    if "instance" in named:
        fields["instance_id"] = named["instance"]
    return shard.ask(call, ConsumerGroupHeartbeatRequest("g", member, epoch, **fields), 1)


def _lines(effects: list[Effect]) -> list[str]:
    shown: list[str] = []
    for effect in effects:
        match effect:
            case Append(records=records):
                shown += [f"append {_record(record)}" for record in records]
            case Reply(message=message):
                shown.append(f"reply {_message(message)}")
            case Arm(key=key, after_ms=after_ms):
                shown.append(f"arm {_key(key)} in {after_ms} ms")
            case Disarm(key=key):
                shown.append(f"disarm {_key(key)}")
            case Note(kind=kind, text=text):
                shown.append(f"note {kind}: {text}")
    return shown


def _key(key: object) -> str:
    assert isinstance(key, tuple)
    return " ".join(str(part) for part in key)


def _record(record: Record) -> str:
    name = type(record.key).__name__.removesuffix("Key")
    about = " ".join(_fields(record.key))
    return f"{name} {about}: {'gone' if record.value is None else ' '.join(_fields(record.value))}"


def _message(message: Message | Refused) -> str:
    if isinstance(message, Refused):
        return f"refused {message.code.name}"
    return f"{type(message).__name__} {' '.join(_fields(message))}".rstrip()


def _fields(message: Message) -> list[str]:
    """What is not as the protocol has it by default."""
    default = type(message)()
    return [
        f"{name}={_value(value)}"
        for name in message.__struct_fields__
        if (value := getattr(message, name)) != getattr(default, name) and name != "metadata_hash"
    ]


def _value(value: Any) -> str:
    if isinstance(value, Message):
        return f"({' '.join(_fields(value))})"
    if isinstance(value, list):
        return f"[{', '.join(_value(each) for each in value)}]"
    if isinstance(value, bytes):
        return value.rstrip(b"-").decode() if len(value) == 16 else f"<{len(value)} bytes>"
    return str(value)

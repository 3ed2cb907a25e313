"""OffsetCommit as nearly all of it comes: a short way from the frame to the answer, without a message object between.

:func:`commit_plain` takes a request only when it is plain in every part: a version with compact lengths, no tagged
fields, topics and partitions that are here, and a group that takes the offsets and has them committed at once.
Anything else it leaves to :mod:`logd.apis.group_offsets` before it has changed anything, also what does not decode and
what is refused: the error comes from there. Whether a group takes them is its coordinator's business on both ways.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from logd.apis.dispatch import LARGE_BYTES
from logd.apis.group_offsets import TOPIC_IDS_VERSION
from logd.apis.registry import Connection, Services, shortcut
from logd.coordinators.events import PlainCommit, PlainOffset

if TYPE_CHECKING:
    from logd.cluster.image import Image
    from logd.wire.frames import RequestHead
    from logd.wire.message import Buffer

OFFSET_COMMIT = 8
FLEXIBLE_FROM = 8
ONE_BYTE = 128
"""Compact lengths below this take one byte; a request with longer names or more partitions is not plain."""
PARTITION_BYTES = 16

_read_int = struct.Struct(">i").unpack_from
_read_partition = struct.Struct(">iqi").unpack_from  # index, offset, leader epoch
_write_row = struct.Struct(">ihB").pack  # index, error, no tags
_write_head = struct.Struct(">iiBi").pack  # size, correlation id, no tags, no throttling
HEAD_BYTES = 9
"""What of the head the size counts."""


class _NotPlain(Exception):
    """A length that takes more than one byte."""


@shortcut(OFFSET_COMMIT)
def commit_plain(
    frame: memoryview, head: RequestHead, connection: Connection, services: Services
) -> list[Buffer] | None:
    """Versions 8-10. The answer in one buffer, or None when the request has to go the long way."""
    if head.api_version < FLEXIBLE_FROM or len(frame) > LARGE_BYTES or services.settings.log_flush_mode == "group":
        return None  # where a flush commits, all have to wait: no need to read it twice
    try:
        asked = _asked(frame, head, services.cluster.image)
    except (struct.error, IndexError, UnicodeDecodeError, _NotPlain):
        return None
    if asked is None or not services.groups.commit_at_once(asked[0]):
        return None
    body = asked[1]
    return [_write_head(len(body) + HEAD_BYTES, head.correlation_id, 0, 0) + body]


def _asked(b: memoryview, head: RequestHead, image: Image) -> tuple[PlainCommit, bytes] | None:
    """What a plain request asks for, and the topics of its answer; None for any other.

    Raises what reading past the end of it raises.
    """
    version = head.api_version
    by_id = version >= TOPIC_IDS_VERSION
    group_id, p = _text(b, head.body)
    generation = _read_int(b, p)[0]
    member_id, p = _text(b, p + 4)
    instance_id, p = _text(b, p)
    count = b[p]
    p += 1
    if not group_id or member_id is None or not 1 < count < ONE_BYTE:
        return None
    offsets: list[PlainOffset] = []
    answer = [bytes((count,))]
    for _ in range(count - 1):
        start = p
        if by_id:
            p += 16
            topic = image.topics_by_id.get(bytes(b[start:p]))
        else:
            name, p = _text(b, p)
            topic = image.topics.get(name or "")
        count = b[p]
        p += 1
        if topic is None or not 1 < count < ONE_BYTE:
            return None
        answer.append(bytes(b[start:p]))
        there = len(topic.partitions)
        for _ in range(count - 1):
            index, offset, epoch = _read_partition(b, p)
            metadata, p = _text(b, p + PARTITION_BYTES)
            if not 0 <= index < there or b[p]:
                return None
            p += 1
            offsets.append(PlainOffset(topic.name, topic.id, index, offset, epoch, metadata or ""))
            answer.append(_write_row(index, 0, 0))
        if b[p]:
            return None
        p += 1
        answer.append(b"\0")
    if b[p]:
        return None
    answer.append(b"\0")
    return PlainCommit(group_id, generation, member_id, instance_id, version, offsets), b"".join(answer)


def _text(b: memoryview, p: int) -> tuple[str | None, int]:
    """A compact string, or null, of a length that takes one byte: what it is, and where the next field begins."""
    size = b[p]
    if size >= ONE_BYTE:
        raise _NotPlain
    p += 1
    if size == 0:
        return None, p
    end = p + size - 1
    return str(b[p:end], "utf-8"), end

"""Ask the leaders for offsets: first, next, or by time (ListOffsets).

Used by consumer and admin. Retries while leaders move.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from logd.client.calls import LIST_OFFSETS
from logd.client.errors import check
from logd.client.metadata import TopicPartition
from logd.client.routing import Router
from logd.wire.schemas.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsResponse,
    ListOffsetsTopic,
)

LATEST = -1
"""The offset after the last record that can be read."""
EARLIEST = -2
"""The offset of the first record that is there."""
MAX_TIMESTAMP = -3
"""The record with the highest timestamp (KIP-734)."""


class FoundOffset(NamedTuple):
    """An answer; offset -1: no record is that young. `timestamp_ms` is -1 where a special offset was asked for."""

    offset: int
    timestamp_ms: int


async def list_offsets(
    router: Router, wanted: Mapping[TopicPartition, int], *, committed_only: bool = False
) -> dict[TopicPartition, FoundOffset]:
    """For each partition the first offset whose timestamp is not below the given one (milliseconds since 1970), or
    what one of the constants above says.

    :raises Refused: a topic or partition does not exist. :raises ClientError: no answer in time.
    """
    found: dict[TopicPartition, FoundOffset] = {}
    topics = {at.topic for at in wanted}

    async def attempt() -> None:
        missing = [at for at in wanted if at not in found]
        for node, partitions in (await router.by_leader(missing)).items():
            await _ask_leader(router, node, {at: wanted[at] for at in partitions}, committed_only, found)

    await router.retry(lambda: router.refresh(sorted(topics)))
    await router.retry(attempt, topics=topics, timeout_ms=router.settings.unknown_topic_timeout_ms)
    return {at: found[at] for at in wanted}


async def _ask_leader(
    router: Router,
    node: int,
    wanted: Mapping[TopicPartition, int],
    committed_only: bool,
    found: dict[TopicPartition, FoundOffset],
) -> None:
    topics: dict[str, ListOffsetsTopic] = {}
    for at, timestamp in wanted.items():
        topic = topics.setdefault(at.topic, ListOffsetsTopic(name=at.topic))
        info = router.metadata.partition(at)
        epoch = info.leader_epoch if info is not None else -1
        part = ListOffsetsPartition(partition_index=at.partition, current_leader_epoch=epoch, timestamp=timestamp)
        topic.partitions.append(part)
    request = ListOffsetsRequest(
        replica_id=-1,
        isolation_level=int(committed_only),
        topics=list(topics.values()),
        timeout_ms=router.settings.request_timeout_ms,
    )
    answer = await router.ask(LIST_OFFSETS, request, ListOffsetsResponse, node=node)
    for topic_answer in answer.topics:
        for part_answer in topic_answer.partitions:
            at = TopicPartition(topic_answer.name, part_answer.partition_index)
            check(part_answer.error_code, None, f"offset of partition {at}")
            found[at] = FoundOffset(part_answer.offset, part_answer.timestamp)


async def partitions_of(router: Router, topics: Iterable[str]) -> list[TopicPartition]:
    """Every partition of these topics, in order.

    :raises Refused: one of them does not exist.
    """
    names = list(topics)
    await router.refresh(names)
    found: list[TopicPartition] = []
    for name in names:
        topic = router.metadata.topics.get(name)
        number = topic.error if topic is not None else 3
        check(number, f"topic {name!r} does not exist" if number == 3 else None, f"topic {name!r}")
        assert topic is not None
        found += [TopicPartition(name, index) for index in topic.partitions]
    return found

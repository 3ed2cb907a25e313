"""The transaction coordinator of one node: the way in for requests, and the way out for markers.

Puts each request to the shard of its transactional id, hands new producer ids to those that need one, and has the
markers of prepared transactions written until every partition has its own. What is decided about transactions is the
machine's business, in :mod:`transactions`; how a marker gets into a log is :mod:`markers`'. Called by the APIs, and
by Produce, which asks whether a partition belongs to a transaction.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

import msgspec
import trio

from logd.chronicle import Chronicle
from logd.cluster.store import StoreUnusable
from logd.coordinators.front import TOPIC as OFFSETS_TOPIC
from logd.coordinators.front import Waiter
from logd.coordinators.journal import partition_journals
from logd.coordinators.shards import Shards, shard_of
from logd.errors import ErrorCode, Refused, StorageFailed
from logd.wire.message import Message
from logd.wire.schemas.add_partitions_to_txn import (
    AddPartitionsToTxnResult,
    AddPartitionsToTxnTopic,
    AddPartitionsToTxnTransaction,
)

if TYPE_CHECKING:
    from logd.clock import Clock
    from logd.cluster.image import Image
    from logd.coordinators import shards
    from logd.coordinators.effects import SendMarkers, TakeProducerId
    from logd.coordinators.journal import Journal
    from logd.coordinators.markers import Marker
    from logd.coordinators.runtime import Runtime
    from logd.coordinators.timer import Timer
    from logd.partitions.table import PartitionTable

logger = logging.getLogger("logd.transactions")

TOPIC = "__transaction_state"
FEATURE = "transaction.version"
HIGHEST_LEVEL = 2
BROKER_VERSION = 5
"""AddPartitionsToTxn as a broker asks it, for clients of transaction.version 2."""
RETRY_S, RETRY_MAX_S = 0.1, 1.0
"""Between two tries to write the markers that could not be written: at first, and after many."""

TopicPartition = tuple[str, int]
Codes = dict[TopicPartition, ErrorCode]

TRY_AGAIN = frozenset(
    {
        ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
        ErrorCode.COORDINATOR_NOT_AVAILABLE,
        ErrorCode.NOT_COORDINATOR,
        ErrorCode.NOT_LEADER_OR_FOLLOWER,
        ErrorCode.KAFKA_STORAGE_ERROR,
        ErrorCode.NOT_ENOUGH_REPLICAS,
        ErrorCode.REQUEST_TIMED_OUT,
    }
)
"""What may be better soon: the partition is there and has no marker yet."""


class Writer(Protocol):
    """Writes markers; :class:`logd.coordinators.markers.MarkerWriter`."""

    async def write_all(
        self, marker: Marker, partitions: Iterable[TopicPartition]
    ) -> Mapping[TopicPartition, ErrorCode]: ...


class TransactionCoordinator:
    """The front of all shards.

    :param ids: gives a producer id that nobody ever had.
    :param markers: how markers get into the partitions' logs.
    :param partitions: the partitions that this node hosts, those of `__transaction_state` among them.
    :param journal_of: instead of `partitions`, the journal of each shard, None for one that this node does not lead.
    :param chronicle: where what happens to transactional ids is remembered.
    :param steady: a clock whose leaps are not believed, by which transactional ids expire; else `clock`.
    """

    def __init__(
        self,
        *,
        cluster: shards.Metadata,
        ids: Callable[[], Awaitable[int]],
        clock: Clock,
        markers: Writer,
        partitions: PartitionTable | None = None,
        journal_of: Callable[[int], Journal | None] | None = None,
        chronicle: Chronicle | None = None,
        steady: Clock | None = None,
    ) -> None:
        self._chronicle = Chronicle(0) if chronicle is None else chronicle
        if journal_of is None:
            assert partitions is not None, "the shards need a place for their records"
            journal_of = partition_journals(partitions, TOPIC)
        self._cluster = cluster
        self._next_id = ids
        self._clock = clock
        self._steady = steady
        self._markers = markers
        self._shards = Shards(TOPIC, cluster=cluster, journal_of=journal_of, open_shard=self._open_shard, log=logger)
        self._ending: dict[str, trio.Event] = {}
        self.look_again = self._shards.look_again
        self.until_serving = self._shards.until_serving
        self.coordinator_of = self._shards.leader_of

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve what this node leads, until cancelled; ready at once."""
        self._cluster.listeners.append(self._follow)
        try:
            await self._shards.run(task_status=task_status)
        finally:
            self._cluster.listeners.remove(self._follow)

    async def _follow(self, old: Image, new: Image) -> None:
        """Another transaction.version may have been chosen."""
        from logd.coordinators.transaction_events import VersionChosen

        if old.features is not new.features:
            self._shards.tell(VersionChosen(self._level()))

    def _level(self) -> int:
        return self._cluster.image.features.get(FEATURE, HIGHEST_LEVEL)

    def close(self) -> None:
        """Answer whoever still waits."""
        self._shards.close()

    def _open_shard(self, name: str, index: int, journal: Journal, timer: Timer) -> Runtime:
        from logd.coordinators.effects import TakeProducerId
        from logd.coordinators.transaction_events import MarkersWritten
        from logd.coordinators.transaction_shard import open_shard

        def send(effect: SendMarkers | TakeProducerId, offset: int) -> None:
            if isinstance(effect, TakeProducerId):
                self._shards.start(partial(self._take_id, runtime, effect))
                return
            assert isinstance(effect.written, MarkersWritten)
            ended = self._ending[effect.written.transactional_id] = trio.Event()
            self._shards.start(partial(self._send, runtime, journal, effect, offset, ended))

        settings, tell = self._cluster.settings, self._chronicle.add
        runtime = open_shard(name, journal, settings, self._level(), timer, self._clock, send, tell, self._steady)
        return runtime

    async def ensure_topic(self) -> None:
        """Make `__transaction_state` if it is not there.

        :raises Refused: it can't be made now.
        """
        settings = self._cluster.settings
        configs: dict[str, str | None] = {
            "cleanup.policy": "compact",
            "compression.type": "uncompressed",
            "min.insync.replicas": str(settings.transaction_state_log_min_isr),
            "segment.bytes": str(settings.transaction_state_log_segment_bytes),
            "unclean.leader.election.enable": "false",
        }
        count = settings.transaction_state_log_num_partitions
        await self._cluster.ensure_topic(TOPIC, num_partitions=count, configs=configs)

    # Requests

    def ask(
        self, transactional_id: str, request: Message, version: int = 0, new_producer_id: int = -1, client: str = ""
    ) -> Waiter:
        """Put a request about one transactional id to its shard; the answer may be there already.

        :param client: who asks, for those who read what happened.
        :raises Refused: COORDINATOR_LOAD_IN_PROGRESS, NOT_COORDINATOR.
        """
        from logd.coordinators.transaction_events import TransactionAsked

        shard = self._shards.find(transactional_id)
        waiter = Waiter()
        shard.step(TransactionAsked(waiter, request, version, new_producer_id, client))
        return waiter

    def ask_with_id(
        self, transactional_id: str, request: Message, version: int, client: str = ""
    ) -> Message | Awaitable[Message]:
        """The same for requests that may need a new producer id, which costs a write now and then.

        At once where nothing is to be waited for. While the transaction before is being ended it waits a little for
        that.

        :raises Refused: as :meth:`ask`, and what the machine refuses.
        """
        ended = self._ending.get(transactional_id)
        if self._needs_id(transactional_id, request, version):
            return self._with_id_later(transactional_id, request, version, client, ended, None)
        waiter = self.ask(transactional_id, request, version, client=client)
        if waiter.message is None or (ended is not None and _is_busy(waiter.message)):
            return self._with_id_later(transactional_id, request, version, client, ended, waiter)
        return waiter.result()

    async def _with_id_later(
        self,
        transactional_id: str,
        request: Message,
        version: int,
        client: str,
        ended: trio.Event | None,
        asked: Waiter | None,
    ) -> Message:
        if asked is None:
            outcome = await self._outcome_with_id(transactional_id, request, version, client)
        else:
            outcome = await asked.outcome()
        limit = trio.current_time() + self._patience_s()
        while ended is not None and _is_busy(outcome) and await _passed(ended, limit):
            ended = self._ending.get(transactional_id)
            outcome = await self._outcome_with_id(transactional_id, request, version, client)
        if isinstance(outcome, Refused):
            raise outcome
        return outcome

    def _needs_id(self, transactional_id: str, request: Message, version: int) -> bool:
        from logd.coordinators.transactions import TransactionMachine

        machine = self._shards.find(transactional_id).machine
        assert isinstance(machine, TransactionMachine)
        return machine.needs_id(request, version)

    async def _outcome_with_id(
        self, transactional_id: str, request: Message, version: int, client: str
    ) -> Message | Refused:
        new_id = await self._next_id() if self._needs_id(transactional_id, request, version) else -1
        return await self.ask(transactional_id, request, version, new_id, client).outcome()

    def _patience_s(self) -> float:
        return self._cluster.settings.add_partitions_to_txn_retry_backoff_max_ms / 1000

    def ask_all(self, request: Message, version: int = 0) -> list[Waiter]:
        """Put a request to every shard of this node.

        :raises Refused: COORDINATOR_LOAD_IN_PROGRESS when one of them is not loaded yet.
        """
        from logd.coordinators.transaction_events import TransactionAsked

        waiters = []
        for shard in self._shards.all():
            waiters.append(Waiter())
            shard.step(TransactionAsked(waiters[-1], request, version))
        return waiters

    # Partitions

    def add_partitions(
        self,
        transactional_id: str,
        producer_id: int,
        producer_epoch: int,
        partitions: Sequence[TopicPartition],
        *,
        verify_only: bool,
        version: int = BROKER_VERSION,
        before_again: Callable[[], None] | None = None,
    ) -> Codes | Awaitable[Codes]:
        """Add partitions to a transaction, or ask whether they belong to it: a code for each.

        At once, or awaitable while the answer is not committed yet, or while the transaction before is being ended.

        :param version: of AddPartitionsToTxn; before 4 the client is one of transaction.version 0 or 1.
        :param before_again: called each time that the transaction before has ended and the question is put again.
        """
        topics: dict[str, list[int]] = {}
        for topic, index in partitions:
            topics.setdefault(topic, []).append(index)
        asked = AddPartitionsToTxnTransaction(
            transactional_id,
            producer_id,
            producer_epoch,
            verify_only,
            [AddPartitionsToTxnTopic(topic, indexes) for topic, indexes in topics.items()],
        )
        if not transactional_id:
            return dict.fromkeys(partitions, ErrorCode.INVALID_REQUEST)
        try:
            waiter = self.ask(transactional_id, asked, version)
        except Refused as refused:
            return dict.fromkeys(partitions, refused.code)
        ended = self._ending.get(transactional_id)
        if waiter.message is None or (_is_busy(waiter.message) and ended is not None):
            return self._added_later(waiter, ended, partitions, asked, version, before_again)
        return _codes(waiter.message, partitions)

    async def _added_later(
        self,
        waiter: Waiter,
        ended: trio.Event | None,
        partitions: Sequence[TopicPartition],
        asked: AddPartitionsToTxnTransaction,
        version: int,
        before_again: Callable[[], None] | None,
    ) -> Codes:
        """Ask again once `ended`, the transaction that was being ended when it was asked first, is over."""
        limit = trio.current_time() + self._patience_s()
        outcome = await waiter.outcome()
        while ended is not None and _is_busy(outcome) and await _passed(ended, limit):
            if before_again is not None:
                before_again()
            try:
                waiter = self.ask(asked.transactional_id, asked, version)
                ended = self._ending.get(asked.transactional_id)
                outcome = await waiter.outcome()
            except Refused as refused:
                outcome = refused
        return _codes(outcome, partitions)

    def offsets_partition(self, group_id: str) -> TopicPartition:
        """The partition that a group's offsets are in, which a transaction that commits them must have.

        :raises Refused: COORDINATOR_NOT_AVAILABLE while there is none.
        """
        topic = self._cluster.image.topics.get(OFFSETS_TOPIC)
        if topic is None:
            raise Refused(ErrorCode.COORDINATOR_NOT_AVAILABLE, f"{OFFSETS_TOPIC} is not there: find the coordinator")
        return OFFSETS_TOPIC, shard_of(group_id, len(topic.partitions))

    # What the machine wants done

    async def _take_id(self, runtime: Runtime, effect: TakeProducerId) -> None:
        """Get a producer id, as often as it takes, then tell the machine."""
        from logd.coordinators.transaction_events import TransactionExpired

        event = effect.event
        assert isinstance(event, TransactionExpired)
        pause_s = RETRY_S
        while runtime.serving:
            try:
                new_id = await self._next_id()
            except (Refused, StorageFailed, StoreUnusable) as why:
                logger.warning("%r is past its timeout, and waits for a producer id: %s", event.transactional_id, why)
                await trio.sleep(pause_s)
                pause_s = min(pause_s * 2, RETRY_MAX_S)
            else:
                runtime.step(msgspec.structs.replace(event, new_producer_id=new_id))
                return

    async def _send(
        self, runtime: Runtime, journal: Journal, effect: SendMarkers, offset: int, ended: trio.Event
    ) -> None:
        """Write the markers of one transaction, as often as it takes, then tell the machine."""
        from logd.coordinators.markers import Marker
        from logd.coordinators.transaction_events import MarkersWritten

        written = effect.written
        assert isinstance(written, MarkersWritten)
        try:
            await journal.wait_committed(offset)
            producer_id, epoch = effect.producer
            marker = Marker(producer_id, epoch, effect.committed, journal.leader_epoch, effect.version)
            left: Iterable[TopicPartition] = effect.partitions
            known: Mapping[TopicPartition, ErrorCode] = {}
            pause_s = RETRY_S
            while runtime.serving:
                codes = await self._markers.write_all(marker, left) if left else {}
                left = [place for place, code in codes.items() if code in TRY_AGAIN]
                _report(written.transactional_id, codes, known)
                if not left:
                    runtime.step(written)
                    return
                await trio.sleep(pause_s)
                pause_s, known = min(pause_s * 2, RETRY_MAX_S), codes
        except (Refused, StorageFailed) as why:
            logger.warning("the markers of %r wait for another coordinator: %s", written.transactional_id, why)
        finally:
            if self._ending.get(written.transactional_id) is ended:
                del self._ending[written.transactional_id]
            ended.set()


async def _passed(ended: trio.Event, limit: float) -> bool:
    """Wait until the markers of a transaction are written; False when that takes until `limit`."""
    if trio.current_time() >= limit:
        return False
    with trio.move_on_at(limit):
        await ended.wait()
    return ended.is_set()


def _is_busy(outcome: Message | Refused) -> bool:
    return isinstance(outcome, Refused) and outcome.code is ErrorCode.CONCURRENT_TRANSACTIONS


def _codes(outcome: Message | Refused, partitions: Iterable[TopicPartition]) -> Codes:
    if isinstance(outcome, Refused):
        return dict.fromkeys(partitions, outcome.code)
    assert isinstance(outcome, AddPartitionsToTxnResult)
    return {
        (topic.name, result.partition_index): ErrorCode(result.partition_error_code)
        for topic in outcome.topic_results
        for result in topic.results_by_partition
    }


def _report(
    transactional_id: str, codes: Mapping[TopicPartition, ErrorCode], known: Mapping[TopicPartition, ErrorCode]
) -> None:
    """Log what went wrong, once for as long as it stays the same."""
    for (topic, index), code in codes.items():
        if code is known.get((topic, index)):
            continue
        if code is ErrorCode.UNKNOWN_TOPIC_OR_PARTITION:
            logger.info("transaction of %r: %s-%d is gone and needs no marker", transactional_id, topic, index)
        elif code is not ErrorCode.NONE:
            logger.warning("transaction of %r: the marker of %s-%d: %s", transactional_id, topic, index, code.name)

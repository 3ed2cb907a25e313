"""Send records: gathered into batches, delivered in order for each partition, retried without duplicates.

``async with Producer("127.0.0.1:9092") as producer`` opens one; leaving the block delivers what is left. The decisions
(what is sent when, sequences, partitions) are in ``accumulator``, ``sequences`` and ``partitioning``; here they are
asked and waited for, and so are ``transactions``.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING

import trio

from logd.client.accumulator import Accumulator, Acknowledged, Batch, Delivery, Header
from logd.client.calls import INIT_PRODUCER_ID, PRODUCE
from logd.client.clock import WallClock
from logd.client.connection import Connection
from logd.client.errors import CannotConnect, ClientError, ConnectionLost, TimedOut, check, is_retriable, refused
from logd.client.lifetime import Lifetime
from logd.client.metadata import TopicPartition
from logd.client.partitioning import Partitioner
from logd.client.routing import Router
from logd.client.sequences import Sequences
from logd.client.settings import CODECS, ClientSettings, ProducerSettings
from logd.clock import Clock
from logd.errors import ErrorCode, Refused
from logd.wire.batches import build_batch
from logd.wire.message import ZERO_UUID
from logd.wire.schemas.init_producer_id import InitProducerIdRequest, InitProducerIdResponse
from logd.wire.schemas.produce import (
    PartitionProduceData,
    PartitionProduceResponse,
    ProduceRequest,
    ProduceResponse,
    TopicProduceData,
)

if TYPE_CHECKING:
    from logd.client.transactions import Reading, Transaction, Transactions

VERSION_BEFORE_IDS = 12
"""From the version after this one on, Produce names topics by id."""


class Producer(Lifetime):
    """Send records to the topics of one cluster.

    :param bootstrap: ``host:port`` (several with commas between), or a router that is open already and shared.
    """

    def __init__(
        self,
        bootstrap: str | Iterable[str] | Router,
        settings: ProducerSettings | None = None,
        *,
        client: ClientSettings | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.settings = settings or ProducerSettings()
        self._codec = CODECS[self.settings.codec]
        self._shared = isinstance(bootstrap, Router)
        self._router = bootstrap if isinstance(bootstrap, Router) else Router(bootstrap, client)
        self._clock = clock or WallClock()
        self._accumulator = Accumulator(
            self.settings.batch_bytes, self.settings.linger_ms / 1000, self.settings.delivery_timeout_ms / 1000
        )
        self._partitioner = Partitioner(random.randrange)
        self._sequences = Sequences() if self.settings.idempotent and self.settings.acks == -1 else None
        self._transactions = self._transactional()
        self._identifying = trio.Lock()
        self._wake = trio.Event()
        self._progress = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._deliveries: set[trio.CancelScope] = set()
        self._is_over = False
        """Nothing is sent any more: the producer is closed, or cancelled."""

    def _transactional(self) -> Transactions | None:
        name = self.settings.transactional_id
        if name is None:
            return None
        if self._sequences is None:
            raise ValueError("transactions need acks -1 and idempotent true")
        from logd.client.transactions import Transactions

        return Transactions(self._router, name, self.settings.transaction_timeout_ms, self._sequences)

    async def _wind_up(self) -> None:
        await self.flush()

    @asynccontextmanager
    async def _live(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if not self._shared:
                await stack.enter_async_context(self._router)
            if self._transactions is not None:
                await self._transactions.open()
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._send_batches)
                yield
                nursery.cancel_scope.cancel()
            for batch in self._accumulator.drop_all():
                batch.fail(ClientError("record not delivered", "the producer was closed before it was sent"))
            self._progress.set()

    # -- taking records

    async def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        partition: int | None = None,
        headers: Iterable[Header] = (),
        timestamp_ms: int | None = None,
    ) -> Delivery:
        """Accept one record; it is delivered in the background. Waits while the buffer is full. Cancelled, it has
        accepted nothing.

        :raises Refused: the topic or the partition does not exist. :raises ClientError: no server can be asked, or the
            producer is closed.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            try:
                delivery = self.send_nowait(
                    topic, value, key=key, partition=partition, headers=headers, timestamp_ms=timestamp_ms
                )
            except trio.WouldBlock:
                await self._make_ready(topic)  # others may take the room that is found
                continue
            await trio.lowlevel.cancel_shielded_checkpoint()  # it is accepted: who is cancelled now must learn that
            return delivery

    def send_nowait(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        partition: int | None = None,
        headers: Iterable[Header] = (),
        timestamp_ms: int | None = None,
    ) -> Delivery:
        """As :meth:`send`; :class:`trio.WouldBlock` when the buffer is full or the topic not known yet."""
        self._check_open()
        if self._transactions is not None:
            self._check_transaction(self._transactions)
        found = self._router.metadata.topics.get(topic)
        if found is None or not found.partitions or not self._has_room():
            raise trio.WouldBlock
        count = len(found.partitions)
        chosen = self._partitioner.choose(topic, key, count) if partition is None else partition
        if chosen not in found.partitions:
            message = f"topic {topic!r} has no partition {chosen}: it has {count}, numbered from 0"
            raise Refused(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, message)
        stamp_ms = self._clock.now_ms() if timestamp_ms is None else timestamp_ms
        at = TopicPartition(topic, chosen)
        delivery = self._accumulator.append(at, stamp_ms, key, value, list(headers), trio.current_time())
        self._wake.set()
        return delivery

    @asynccontextmanager
    async def transaction(self, *consumers: Reading) -> AsyncIterator[Transaction]:
        """Within the block, all that is sent, and the offsets committed, are one: all of it or nothing of it is seen
        by readers of committed records. Committed at the end of the block; aborted when that ends by an exception or
        is cancelled, and then `consumers` (and those whose offsets were committed) go back to where they were before.

        :raises ProducerFenced: another producer has the transactional id now.
        :raises ValueError: the producer has no transactional id.
        """
        transactions = self._transactions
        if transactions is None:
            raise ValueError("transactions need a name: ProducerSettings(transactional_id=...)")
        async with transactions.lock:
            await transactions.begin()
            transaction = transactions.transaction(self, [one.share for one in consumers])
            is_over = False
            try:
                yield transaction
                if not transaction.is_aborted:
                    await self._commit(transactions)
                    is_over = True
                    transaction.committed()
            finally:
                if not is_over:
                    await self._abort(transactions)
                    transaction.undone()

    async def _commit(self, transactions: Transactions) -> None:
        """Once the commit is asked for it is not taken back: it is waited for, in a cancelled task too."""
        await self.flush()
        if transactions.error is not None:
            raise transactions.error
        limit_ms = self._router.settings.request_timeout_ms
        with trio.move_on_after(limit_ms / 1000) as scope:
            scope.shield = True
            try:
                async with self._router.last_word() as router:
                    await transactions.end(router, committed=True)
                return
            except (ConnectionLost, TimedOut, CannotConnect) as error:
                raise transactions.unknown_outcome(error.why) from error
        raise transactions.unknown_outcome(f"no answer within {limit_ms} ms")

    async def _abort(self, transactions: Transactions) -> None:
        aborted = ClientError("record not delivered", "its transaction was aborted")
        with trio.move_on_after(self.settings.abort_timeout_ms / 1000) as scope:
            scope.shield = True
            transactions.failed(aborted, sent=False)
            for batch in self._accumulator.drop_waiting():
                batch.fail(aborted)
            self._progress.set()
            async with self._router.last_word() as router:
                while router is self._router and not self._is_over and not self._accumulator.is_empty:
                    await self._progressed()
                self._give_up_on(transactions, aborted)
                with suppress(ClientError, Refused):  # else the server does it, at the next beginning or by its timeout
                    await transactions.end(router, committed=False)
        self._give_up_on(transactions, aborted)
        transactions.close()

    def _give_up_on(self, transactions: Transactions, reason: ClientError) -> None:
        """What is not delivered by now never is: it must not get into the next transaction."""
        for scope in self._deliveries:
            scope.cancel()
        for batch in self._accumulator.drop_all():
            transactions.failed(reason, sent=batch.producer is not None)
            batch.fail(reason)
        self._progress.set()

    async def publish(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        partition: int | None = None,
        headers: Iterable[Header] = (),
        timestamp_ms: int | None = None,
    ) -> Acknowledged:
        """Send one record and wait until the server has it; raises as :meth:`send` and :meth:`Delivery.wait`."""
        delivery = await self.send(
            topic, value, key=key, partition=partition, headers=headers, timestamp_ms=timestamp_ms
        )
        return await delivery.wait()

    async def flush(self) -> None:
        """Wait until the outcome of every accepted record is known."""
        self._accumulator.flushing += 1
        try:
            while not self._accumulator.is_empty:
                self._wake.set()
                await self._progressed()
        finally:
            self._accumulator.flushing -= 1

    @property
    def pending_bytes(self) -> int:
        """About how much is accepted and not acknowledged yet."""
        return self._accumulator.pending_bytes

    def _check_open(self) -> None:
        if self._is_over:
            raise ClientError("record not accepted", "the producer is closed", "send within its `async with` block")

    def _check_transaction(self, transactions: Transactions) -> None:
        if transactions.error is not None:
            raise transactions.error
        if not transactions.is_open:
            raise ValueError("a producer with a transactional id sends within `async with producer.transaction()`")

    def _has_room(self) -> bool:
        return self._accumulator.pending_bytes < self.settings.buffer_bytes_max

    async def _progressed(self) -> None:
        if self._progress.is_set():
            self._progress = trio.Event()
        await self._progress.wait()

    async def _make_ready(self, topic: str) -> None:
        """Wait for room, or learn the topic's partitions; it is made when the server does that on first use."""
        while not self._has_room():
            self._check_open()
            await self._progressed()
        known = self._router.metadata.topics.get(topic)
        if known is None or not known.partitions:
            await self._router.retry(
                lambda: self._learn(topic), timeout_ms=self._router.settings.unknown_topic_timeout_ms
            )

    async def _learn(self, topic: str) -> None:
        found = (await self._router.refresh([topic], create=True)).topics.get(topic)
        number = found.error if found is not None else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        if number == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION:
            raise Refused(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"topic {topic!r} does not exist")
        check(number, None, f"topic {topic!r}")

    # -- sending batches

    async def _send_batches(self) -> None:
        try:
            await self._send_for_ever()
        finally:
            self._is_over = True
            self._progress.set()

    async def _send_for_ever(self) -> None:
        assert self._nursery is not None
        while True:
            self._wake = trio.Event()
            groups: dict[int, list[Batch]] = {}
            for batch in self._accumulator.take(trio.current_time()):
                self._batch_closed(batch)
                info = self._router.metadata.partition(batch.at)
                groups.setdefault(info.leader if info is not None else -1, []).append(batch)
            for node, batches in groups.items():
                for group in self._by_size(batches):
                    self._nursery.start_soon(self._deliver, node, group)
            with trio.move_on_at(self._accumulator.next_due_s()):
                await self._wake.wait()
            await trio.lowlevel.checkpoint()

    def _batch_closed(self, batch: Batch) -> None:
        topic = self._router.metadata.topics.get(batch.at.topic)
        if topic is not None and topic.partitions:
            self._partitioner.batch_closed(batch.at.topic, batch.at.partition, len(topic.partitions))

    def _by_size(self, batches: list[Batch]) -> list[list[Batch]]:
        groups: list[list[Batch]] = [[]]
        size = 0
        for batch in batches:
            if groups[-1] and size + batch.size_bytes > self.settings.request_bytes_max:
                groups.append([])
                size = 0
            groups[-1].append(batch)
            size += batch.size_bytes
        return groups

    async def _deliver(self, node: int, batches: list[Batch]) -> None:
        """As :meth:`_try`, unless they are given up meanwhile."""
        with trio.CancelScope() as scope:
            self._deliveries.add(scope)
            try:
                await self._try(node, batches)
            finally:
                self._deliveries.discard(scope)

    async def _try(self, node: int, batches: list[Batch]) -> None:
        """One try for these batches, which all go to one node; what fails is tried again or failed for good."""
        connection: Connection | None = None
        try:
            if node < 0:
                raise Refused(ErrorCode.LEADER_NOT_AVAILABLE, f"partition {batches[0].at} has no leader now")
            if self._transactions is not None:
                if self._transactions.error is not None:
                    raise ClientError("record not delivered", "its transaction has failed already")
                await self._transactions.enlist([batch.at for batch in batches])
            connection = await self._router.connection(node, "produce")
            for batch in batches:
                await self._identify(batch)
            answer = await self._exchange(connection, batches)
        except (ClientError, Refused) as error:
            if isinstance(error, TimedOut) and connection is not None:
                connection.close()
            for batch in batches:
                self._try_again(batch, error)
            return
        for batch in batches:
            self._settle(batch, answer)

    async def _identify(self, batch: Batch) -> None:
        if self._sequences is None or batch.producer is not None:
            return
        async with self._identifying:
            if self._transactions is None and self._sequences.needs_identity(batch.at):
                request = InitProducerIdRequest(transactional_id=None, transaction_timeout_ms=0)
                answer = await self._router.ask(INIT_PRODUCER_ID, request, InitProducerIdResponse)
                check(answer.error_code, None, "producer id")
                self._sequences.identify(batch.at, (answer.producer_id, answer.producer_epoch))
            batch.producer = self._sequences.assign(batch.at, len(batch.records))

    async def _exchange(
        self, connection: Connection, batches: list[Batch]
    ) -> dict[TopicPartition, PartitionProduceResponse] | None:
        request, has_ids = self._request(batches)
        highest = None if has_ids else VERSION_BEFORE_IDS
        if self._transactions is not None and not self._transactions.is_implicit:
            highest = self._transactions.PRODUCE_HIGHEST_BEFORE
        version = connection.version_for(PRODUCE, highest)
        if self.settings.acks == 0:
            await connection.tell(PRODUCE, request, version=version)
            return None
        answer = await connection.ask(PRODUCE, request, ProduceResponse, version=version)
        names = {self._topic_id(batch): batch.at.topic for batch in batches}
        return {
            TopicPartition(topic.name or names.get(topic.topic_id, ""), part.index): part
            for topic in answer.responses
            for part in topic.partition_responses
        }

    def _topic_id(self, batch: Batch) -> bytes:
        topic = self._router.metadata.topics.get(batch.at.topic)
        return topic.id if topic is not None else ZERO_UUID

    def _request(self, batches: list[Batch]) -> tuple[ProduceRequest, bool]:
        """The request, and whether every topic's id is known."""
        topics: dict[str, TopicProduceData] = {}
        for batch in batches:
            name = batch.at.topic
            topic = topics.setdefault(name, TopicProduceData(name=name, topic_id=self._topic_id(batch)))
            topic.partition_data.append(PartitionProduceData(index=batch.at.partition, records=self._encode(batch)))
        limit_ms = self._router.settings.request_timeout_ms
        request = ProduceRequest(self.settings.transactional_id, self.settings.acks, limit_ms, list(topics.values()))
        return request, all(topic.topic_id != ZERO_UUID for topic in topics.values())

    def _encode(self, batch: Batch) -> bytearray:
        producer_id, epoch, sequence = batch.producer or (-1, -1, -1)
        return build_batch(
            batch.records,
            codec=self._codec,
            level=self.settings.level,
            producer_id=producer_id,
            producer_epoch=epoch,
            base_sequence=sequence,
            transactional=self._transactions is not None,
        )

    # -- outcomes

    def _settle(self, batch: Batch, answer: dict[TopicPartition, PartitionProduceResponse] | None) -> None:
        if answer is None:
            return self._finish(batch, -1, -1)
        part = answer.get(batch.at)
        if part is None:
            return self._try_again(batch, ConnectionLost(f"partition {batch.at}", "the server's answer leaves it out"))
        if part.error_code in (ErrorCode.NONE, ErrorCode.DUPLICATE_SEQUENCE_NUMBER):
            return self._finish(batch, part.base_offset, part.log_append_time_ms)
        if part.error_code == ErrorCode.MESSAGE_TOO_LARGE and len(batch.records) > 1:
            return self._split(batch)
        return self._try_again(batch, refused(part.error_code, _detail(part), f"partition {batch.at}"))

    def _finish(self, batch: Batch, base_offset: int, append_time_ms: int) -> None:
        self._accumulator.finished(batch)
        batch.succeed(base_offset, append_time_ms)
        self._progress.set()
        self._wake.set()

    def _split(self, batch: Batch) -> None:
        """Nothing of a batch that is too large was taken: its records are sent again as two."""
        if self._sequences is not None and batch.producer is not None:
            self._sequences.rewind(batch.at, batch.producer[2])
        self._put_back(*batch.halves())

    def _put_back(self, *batches: Batch) -> None:
        if not batches[0].done.is_set():  # else it was given up meanwhile
            self._accumulator.put_back(*batches)
        self._wake.set()

    def _try_again(self, batch: Batch, error: ClientError | Refused) -> None:
        """After a pause and a look at fresh metadata; or not, when it is hopeless or too late."""
        assert self._nursery is not None
        pause_s = self._router.backoff_s(batch.tries)
        batch.tries += 1
        may_retry = self._transactions is None or self._transactions.error is None
        if may_retry and is_retriable(error) and trio.current_time() + pause_s < batch.deadline_s:
            self._nursery.start_soon(self._put_back_later, batch, pause_s)
            return
        reason: Exception = error
        if self._transactions is not None:
            reason = self._transactions.failed(error, sent=batch.producer is not None)
        elif self._sequences is not None and batch.producer is not None:
            self._sequences.spoil(batch.at)
        self._accumulator.finished(batch)
        batch.fail(reason)
        self._progress.set()
        self._wake.set()

    async def _put_back_later(self, batch: Batch, pause_s: float) -> None:
        await trio.sleep(pause_s)
        with trio.move_on_at(batch.deadline_s):
            await self._router.try_refresh([batch.at.topic])
        self._put_back(batch)


def _detail(part: PartitionProduceResponse) -> str | None:
    if part.record_errors and part.record_errors[0].batch_index_error_message:
        return part.record_errors[0].batch_index_error_message
    return part.error_message

"""A transactional producer for the simulation, and a reader that sees only what was committed (KIP-98).

A transaction that meets trouble is given up: the producer begins anew, which aborts it. What became of one whose commit
was sent and never answered is unknown; any other is known to be aborted.
"""

from __future__ import annotations

from logd.wire.batches import Record, build_batch, read_headers, read_records
from logd.wire.schemas.add_partitions_to_txn import AddPartitionsToTxnRequest, AddPartitionsToTxnTopic
from logd.wire.schemas.end_txn import EndTxnRequest
from logd.wire.schemas.fetch import FetchPartition, FetchRequest, FetchTopic
from logd.wire.schemas.find_coordinator import FindCoordinatorRequest
from logd.wire.schemas.init_producer_id import InitProducerIdRequest
from logd.wire.schemas.produce import PartitionProduceData, ProduceRequest, TopicProduceData
from tools.faults import conversation
from tools.faults.conversation import COORDINATOR_COMES, EARLIEST, OK, PAUSE_S, TRIES_MAX, Talk, Told
from tools.faults.history import ABORTED, COMMITTED, Acknowledged, Ended, Ending, Event, Sent

CONCURRENT = 51
COMES = (*COORDINATOR_COMES, CONCURRENT)
ABORT_MARKER = 0
TIMEOUT_MS = 60_000
Place = tuple[str, int]


class Transactor:
    """One transactional id, writing to some partitions of one topic."""

    def __init__(self, name: str, places: list[Place], events: list[Event], timeout_ms: int = TIMEOUT_MS) -> None:
        self.name = name
        self.timeout_ms = timeout_ms
        self.places = places
        self.events = events
        self.committed = 0
        self._producer = (-1, -1)
        self._sequences: dict[Place, int] = {}
        self._number = 0
        self._open = ""
        self._commit_sent = False

    def begin(self) -> Talk:
        """Begin anew: whatever was open is aborted by it, unless its commit was decided."""
        code = 0
        for _ in range(TRIES_MAX):
            found = yield FindCoordinatorRequest(self.name, 1), 2
            answer = None
            if not found.error_code:
                answer = yield InitProducerIdRequest(self.name, self.timeout_ms), 1
            code = found.error_code if answer is None else answer.error_code
            if answer is not None and not code:
                break
            if code not in COMES:
                raise Told(code, f"InitProducerId {self.name}")
            yield PAUSE_S
        if code:
            raise Told(code, f"InitProducerId {self.name} for long")
        self._producer = (answer.producer_id, answer.producer_epoch)
        self._sequences.clear()
        if self._open and not self._commit_sent:
            self.events.append(Ended(self._open, ABORTED))
        self._open = ""

    def transaction(self, values: int, commit: bool, timestamp: int) -> Talk:
        """One transaction over all partitions. Raises Told; after that, and after Gone, call :meth:`begin`."""
        yield from self.open(values, timestamp)
        yield from self.end(commit)

    def end(self, commit: bool) -> Talk:
        """The end of one that was opened."""
        self._commit_sent = commit
        self.events += [Ending(self._open)] * commit
        yield from self._retried(EndTxnRequest(self.name, *self._producer, commit), 1, lambda answer: answer.error_code)
        self.events.append(Ended(self._open, COMMITTED if commit else ABORTED))
        self.committed += commit
        self._open = ""

    def open(self, values: int, timestamp: int) -> Talk:
        """The beginning of one, with all its records."""
        producer_id, epoch = self._producer
        self._number += 1
        self._open, self._commit_sent = f"{self.name}#{self._number}", False
        topics = [AddPartitionsToTxnTopic(self.places[0][0], [partition for _, partition in self.places])]
        yield from self._retried(
            AddPartitionsToTxnRequest([], self.name, producer_id, epoch, topics),
            3,
            lambda answer: answer.results_by_topic_v3_and_below[0].results_by_partition[0].partition_error_code,
        )
        for place in self.places:
            yield from self._write(place, values, timestamp)

    def _retried(self, request, version: int, code_of) -> Talk:  # type: ignore[no-untyped-def]
        code = 0
        for _ in range(TRIES_MAX):
            code = code_of((yield request, version))
            if code not in COMES:
                break
            yield PAUSE_S
        if code:
            raise Told(code, f"{type(request).__name__} of {self._open}")

    def _write(self, place: Place, values: int, timestamp: int) -> Talk:
        producer_id, epoch = self._producer
        name, sequence = f"{place[0]}-{place[1]}", self._sequences.get(place, 0)
        texts = [f"{self._open}/{place[1]}.{number}" for number in range(values)]
        self.events += [Sent(self.name, name, text, self._open) for text in texts]
        records = [Record(at, timestamp, b"k", text.encode(), []) for at, text in enumerate(texts)]
        batch = build_batch(
            records, producer_id=producer_id, producer_epoch=epoch, base_sequence=sequence, transactional=True
        )
        data = [TopicProduceData(place[0], partition_data=[PartitionProduceData(place[1], memoryview(bytes(batch)))])]
        answer = yield ProduceRequest(self.name, -1, 15_000, data), 7
        told = answer.responses[0].partition_responses[0]
        if told.error_code != OK:
            raise Told(told.error_code, f"Produce of {self._open}")
        self._sequences[place] = sequence + values
        self.events += [Acknowledged(name, text, told.base_offset + at) for at, text in enumerate(texts)]


def committed_values(topic: str, partition: int) -> Talk:
    """Offset and value of all records that a read_committed consumer sees, and how far the log goes beyond them."""
    found, beyond = yield from committed_records(topic, partition)
    return [(one.offset, (one.value or b"").decode()) for one in found], beyond


def committed_records(topic: str, partition: int) -> Talk:
    """The same with the records themselves."""
    at = yield from conversation.offset(topic, partition, EARLIEST)
    found: list[Record] = []
    aborting: set[int] = set()
    while True:
        wanted = FetchTopic(topic, partitions=[FetchPartition(partition, -1, at, -1, -1, 1 << 20)])
        request = FetchRequest(max_wait_ms=0, min_bytes=0, max_bytes=1 << 20, isolation_level=1, topics=[wanted])
        answer = yield request, 11
        told = answer.responses[0].partitions[0]
        data = bytes(told.records or b"")
        if told.error_code:
            raise Told(told.error_code, f"{topic}-{partition}@{at}")
        if not data:
            return found, told.high_watermark - told.last_stable_offset
        aborted = sorted((one.first_offset, one.producer_id) for one in told.aborted_transactions or ())
        for position, header in read_headers(data):
            while aborted and aborted[0][0] <= header.last_offset:
                aborting.add(aborted.pop(0)[1])
            records = read_records(data[position : position + header.size], 0, bytes_max=1 << 22)
            if header.is_control:
                if records and int.from_bytes((records[0].key or b"\0\0\0\0")[2:4], "big") == ABORT_MARKER:
                    aborting.discard(header.producer_id)
            elif not (header.is_transactional and header.producer_id in aborting):
                found += [one for one in records if one.offset >= at]
            at = max(at, header.next_offset)

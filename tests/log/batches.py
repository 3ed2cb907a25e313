"""What the tests of ``logd.log`` append and read."""

from __future__ import annotations

from logd.log.flush import FlushJob
from logd.log.log import Appended, Log
from logd.wire.batches import HEADER_BYTES, Record, build_batch, read_header, read_headers, read_records

TOPIC_ID = bytes(range(16))


def batch(
    count: int = 1,
    *,
    value: bytes = b"v",
    timestamp: int = 1000,
    producer: int = -1,
    epoch: int = 0,
    sequence: int = 0,
    **more: bool,
) -> bytearray:
    """One batch of equal records; ``producer`` >= 0 makes it idempotent."""
    records = [Record(at, timestamp, None, value, []) for at in range(count)]
    if producer < 0:
        return build_batch(records, **more)
    return build_batch(records, producer_id=producer, producer_epoch=epoch, base_sequence=sequence, **more)


def append(log: Log, data: bytes | bytearray, *, epoch: int = 0, now_ms: int = 1000) -> Appended:
    """Append a client's batch; a transactional one as if the coordinator had said yes."""
    header = read_header(data) if len(data) >= HEADER_BYTES else None
    if header is None or not header.is_transactional:
        return log.append(data, leader_epoch=epoch, now_ms=now_ms)
    producer = (header.producer_id, header.producer_epoch, header.base_sequence)
    verified = log.producers.begin_verification(*producer, restarts=False)
    try:
        return log.append(data, leader_epoch=epoch, now_ms=now_ms, verified=verified)
    finally:
        if verified is not None:
            log.producers.end_verification(header.producer_id, verified)


def mark(
    log: Log, producer: int, *, committed: bool, epoch: int = 0, coordinator_epoch: int = 0, leader_epoch: int = 0
) -> int:
    """End a producer's transaction; return the marker's offset."""
    return log.append_marker(
        producer,
        epoch,
        committed=committed,
        coordinator_epoch=coordinator_epoch,
        transaction_version=1,
        leader_epoch=leader_epoch,
        now_ms=1000,
    ).base_offset


def flush(log: Log) -> FlushJob | None:
    """Flush as a worker thread and the loop do."""
    job = log.flush_job()
    if job is not None:
        job.run()
        log.flushed(job)
    return job


def checkpoint(log: Log, high_watermark: int | None = None) -> None:
    job = log.checkpoint(log.end_offset if high_watermark is None else high_watermark)
    if job is not None:
        job.run()
        log.flushed(job)


def content(log: Log, start: int | None = None) -> list[tuple[int, bytes]]:
    """(offset, value) of every record from an offset on, read slice by slice."""
    offset = log.start_offset if start is None else start
    found: list[tuple[int, bytes]] = []
    while offset < log.end_offset:
        slices = log.read(offset, bytes_max=10_000, end=log.end_offset)
        if not slices:
            break
        shown = bytes(slices[0].view()) if slices[0].resident() else None
        data = slices[0].load()
        assert shown in (None, data)
        for position, _ in read_headers(data):
            for record in read_records(data, position, bytes_max=2**24):
                if record.offset >= offset:
                    found.append((record.offset, record.value or b""))
        assert slices[0].next_offset > offset
        offset = slices[0].next_offset
    return found

"""Every setting and limit of the client, with unit, default and meaning.

Given by whoever opens a producer, a consumer, an admin or a router; nothing here is read from a file.
"""

from __future__ import annotations

import msgspec

CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
"""Compression codecs by the name that settings and flags use."""


class ClientSettings(msgspec.Struct, frozen=True):
    """What every kind of client shares."""

    client_id: str = "logd"
    """The name under which the server logs and counts this client."""
    connect_timeout_ms: int = 10_000
    """Opening a connection and agreeing on versions."""
    request_timeout_ms: int = 30_000
    """One request, from sending to its answer."""
    retry_timeout_ms: int = 60_000
    """All tries of one call together."""
    unknown_topic_timeout_ms: int = 5_000
    """How long a topic that does not exist is waited for: a new one takes a moment to be known everywhere."""
    retry_backoff_ms: int = 50
    """The pause before the second try; doubles with each one."""
    retry_backoff_ms_max: int = 1_000
    """The longest pause between tries."""
    frame_bytes_max: int = 128 << 20
    """The biggest answer that is accepted."""
    in_flight_max: int = 16
    """Requests on one connection that wait for answers."""


class ProducerSettings(msgspec.Struct, frozen=True):
    """How records are gathered and delivered."""

    acks: int = -1
    """-1: all in-sync replicas; 1: the leader; 0: do not wait for an answer at all."""
    codec: str = "none"
    """none, gzip, snappy, lz4 or zstd."""
    level: int | None = None
    """The codec's own level; None: its default."""
    batch_bytes: int = 256 << 10
    """Records of one partition are sent together up to this size, counted before compression."""
    linger_ms: int = 0
    """How long a batch that is not full waits for more records; 0: only while an earlier one is under way."""
    buffer_bytes_max: int = 32 << 20
    """Records accepted and not yet acknowledged; sending waits above it."""
    request_bytes_max: int = 1 << 20
    """Batches for one server are put into one request up to this size."""
    delivery_timeout_ms: int = 120_000
    """From accepting a record to its acknowledgement, retries included."""
    idempotent: bool = True
    """Retries never make duplicates (KIP-98); has effect with acks -1 only."""
    transactional_id: str | None = None
    """The name under which transactions are made: one running producer for each. Needs acks -1."""
    transaction_timeout_ms: int = 60_000
    """The server aborts a transaction that is open for longer, and fences its producer."""
    abort_timeout_ms: int = 10_000
    """How long the end of a cancelled or failed transaction may wait for the server, which else aborts it later."""


class ConsumerSettings(msgspec.Struct, frozen=True):
    """How records are fetched."""

    wait_ms: int = 500
    """How long the server may hold a fetch that finds nothing."""
    fetch_bytes_min: int = 1
    """The server answers as soon as it has this much."""
    fetch_bytes_max: int = 16 << 20
    """The size of one answer."""
    partition_bytes_max: int = 1 << 20
    """The share of one partition in it."""
    batch_bytes_max: int = 256 << 20
    """The biggest batch after decompression; a bigger one is an error."""
    chunks_max: int = 2
    """Answers fetched ahead of the reader, for each server."""
    committed_only: bool = False
    """Leave out records of transactions that are open or were aborted."""
    reset: str = "start"
    """Where to go on when the wanted offset is gone: start, end, or error."""


class GroupSettings(msgspec.Struct, frozen=True):
    """How a consumer is a member of its group."""

    protocol: str = "auto"
    """consumer (KIP-848: the server spreads the partitions), classic (a member does), or auto: what the server and the
    other members speak, consumer first."""
    instance: str | None = None
    """A name that outlives restarts: the member keeps its partitions while it is away for less than the session
    timeout (static membership)."""
    max_poll_interval_ms: int = 300_000
    """How long the program may work on what it was given; after it the member leaves and others get its partitions."""
    auto_commit_ms: int = 5_000
    """How often the offsets of what is done are committed; 0: only by `commit`, not even at the end."""
    server_assignor: str | None = None
    """Protocol consumer: uniform, range, or None for the server's default."""
    assignors: tuple[str, ...] = ("range", "cooperative-sticky")
    """Protocol classic: what this member can do, best first: range, roundrobin, cooperative-sticky. All members need
    one in common. Partitions are kept through rebalances when there is only cooperative-sticky."""
    session_timeout_ms: int = 45_000
    """Protocol classic: without a heartbeat for so long the server puts the member out."""
    heartbeat_ms: int = 3_000
    """Protocol classic: the time between heartbeats."""
    rack: str | None = None
    """Where the consumer is, for assignors that look at it."""
    metadata_age_ms: int = 60_000
    """Protocol classic: how often the topics are looked at for new partitions."""
    leave_timeout_ms: int = 5_000
    """The last commit and the leaving, all together, when the consumer is closed or cancelled."""

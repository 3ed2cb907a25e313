"""Kafka's broker settings that logd does not have, each with the reason.

A name that ends with a dot stands for all that begin so; the longest that fits counts. Names of old releases and of
Kafka's unlisted settings are there too, since configuration files outlive releases. Used for the words of a refusal,
by `load` and by the cluster's changes of settings; a twin test asks a real Kafka whether one of its names is missing.
"""

from __future__ import annotations

from typing import Final

NO_TLS = "TLS is not built yet"
NO_LOGIN = "logins are not built yet"
NO_RIGHTS = "access rights are not built yet"
NO_QUOTAS = "quotas are not built yet"
NO_SHARE_GROUPS = "share groups are not built"
NO_STREAMS_GROUPS = "groups of the streams protocol are not built"
NO_TIERS = "remote storage is not built"
ONE_NODE = "a node works alone and keeps the only replica of each partition"
NO_CONTROLLER = "there is no controller and no quorum to set up: metadata is in a file in the data directory"
NO_ZOOKEEPER = "there is no ZooKeeper: metadata is in a file in the data directory"
NO_CLASSES = "it names Java classes, which logd can't load"
NO_METRICS = "Kafka's metrics are not kept"
NO_POOLS = "one event loop serves all connections, without pools of threads and queues of requests"
ONE_LOOP = "the coordinators run in the event loop, and what they write in one turn goes to the log together"
OF_ITSELF = "what waits is let go of at once, there is nothing to purge"
NO_UNSTABLE = "nothing unstable is offered"
NO_OLD_FORMATS = "what is stored and spoken is Kafka 4's; clients agree on versions by themselves"
SET_LISTENERS = "the addresses are in listeners and advertised.listeners"

REASONS: Final[dict[str, tuple[str, ...]]] = {
    NO_TLS: ("ssl.",),
    NO_LOGIN: (
        "sasl.",
        "principal.builder.class",
        "connections.max.reauth.ms",
        "connection.failed.authentication.delay.ms",
        "delegation.token.",
        "password.encoder.",
    ),
    NO_RIGHTS: ("authorizer.class.name", "super.users", "allow.everyone.if.no.acl.found", "early.start.listeners"),
    NO_QUOTAS: (
        "quota.",
        "replication.quota.",
        "controller.quota.",
        "alter.log.dirs.replication.quota.",
        "client.quota.",
        "max.connection.creation.rate",
    ),
    "the limit of max.connections.per.ip is the same for all addresses": ("max.connections.per.ip.overrides",),
    "settings of single listeners are not built": ("listener.name.",),
    NO_SHARE_GROUPS: ("group.share.", "share."),
    NO_STREAMS_GROUPS: ("group.streams.",),
    NO_TIERS: ("remote.", "rlmm.", "rsm.", "log.local.retention."),
    ONE_NODE: (
        "replica.",
        "num.replica.",
        "inter.broker.listener.name",
        "security.inter.broker.protocol",
        "follower.",
        "auto.leader.rebalance.enable",
        "leader.imbalance.",
        "broker.heartbeat.interval.ms",
        "broker.session.timeout.ms",
        "initial.broker.registration.timeout.ms",
        "controlled.shutdown.",
        "request.timeout.ms",
        "socket.connection.setup.",
    ),
    NO_CONTROLLER: (
        "process.roles",
        "controller.",
        "metadata.",
        "server.max.startup.time.ms",
        "control.plane.listener.name",
    ),
    NO_ZOOKEEPER: ("zookeeper.", "broker.id.generation.enable", "reserved.broker.max.id"),
    NO_CLASSES: (
        "alter.config.policy.",
        "create.topic.policy.",
        "config.providers",
        "metric.reporters",
        "kafka.metrics.reporters",
        "auto.include.jmx.reporter",
        "security.providers",
        "telemetry.reporter.",
    ),
    NO_METRICS: ("metrics.", "kafka.metrics."),
    NO_POOLS: ("num.io.threads", "num.network.threads", "queued.max."),
    ONE_LOOP: ("group.coordinator.", "transaction.coordinator."),
    "members of both protocols, classic and consumer, are always served": (
        "group.coordinator.rebalance.protocols",
        "group.coordinator.new.enable",
    ),
    "logs are opened side by side as it is": ("num.recovery.threads.per.data.dir",),
    OF_ITSELF: (
        "fetch.purgatory.",
        "producer.purgatory.",
        "delete.records.purgatory.",
        "share.fetch.purgatory.",
    ),
    "one process compacts, with buffers of its own": ("log.cleaner.threads", "log.cleaner.io.buffer.size"),
    "compaction goes as fast as the disk lets it": ("log.cleaner.io.max.bytes.per.second",),
    "a data directory that fails takes only its own partitions offline": ("log.dir.failure.timeout.ms",),
    "new partitions go where the fewest are": ("cordoned.log.dirs",),
    "the start of a log is written down when it moves": ("log.flush.start.offset.checkpoint.interval.ms",),
    "committed offsets are not compressed": ("offsets.topic.compression.codec",),
    "a commit waits until it is as durable as log.flush.mode says": ("offsets.commit.required.acks",),
    "the logs of coordinators are read in pieces of the right size by themselves": (
        "offsets.load.buffer.size",
        "transaction.state.log.load.buffer.size",
    ),
    "a transaction past its timeout is aborted at once, without a round that looks for them": (
        "transaction.abort.timed.out.transaction.cleanup.interval.ms",
    ),
    "silent producers are looked for every log.retention.check.interval.ms, together with old segments": (
        "producer.id.expiration.check.interval.ms",
    ),
    "it is always on: a partition asks whether a transaction goes on before it takes a record of it": (
        "transaction.partition.verification.enable",
    ),
    "two-phase commit is not built": ("transaction.two.phase.commit.enable",),
    "the server waits by itself until the transaction before has ended, for "
    "add.partitions.to.txn.retry.backoff.max.ms at most": ("add.partitions.to.txn.retry.backoff.ms",),
    NO_UNSTABLE: ("unstable.",),
    NO_OLD_FORMATS: (
        "inter.broker.protocol.version",
        "log.message.format.version",
        "log.message.downconversion.enable",
    ),
    "log.message.timestamp.before.max.ms and log.message.timestamp.after.max.ms stand in its place": (
        "log.message.timestamp.difference.max.ms",
    ),
    SET_LISTENERS: ("host.name", "port", "advertised.host.name", "advertised.port"),
}
"""Names by the reason why logd does not have them."""

_BY_NAME: Final = {name: reason for reason, names in REASONS.items() for name in names}


def why_absent(name: str) -> str | None:
    """Why logd lacks this setting of Kafka's; None for a name that is none of Kafka's, as far as is known."""
    if name in _BY_NAME:
        return _BY_NAME[name]
    parts = name.split(".")
    for count in range(len(parts) - 1, 0, -1):
        reason = _BY_NAME.get(".".join(parts[:count]) + ".")
        if reason is not None:
            return reason
    return None

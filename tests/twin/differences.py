"""What may differ between logd's answers and Kafka's, each with its reason. Everything else is a bug or a decision.

Two kinds stand here: fields whose values are each server's own (`OWN_VALUES`, `OWN_IDS`, ...), and answers that are
different on purpose (`ON_PURPOSE`). A case may add its own (`differs=` in the corpus) with the same form.
"""

from __future__ import annotations

from dataclasses import dataclass

UNKNOWN_SERVER_ERROR = -1

OWN_VALUES = {
    "host": "each server has its own address",
    "port": "each server has its own address",
    "cluster_id": "made at random by each server; both must have one where the other has",
    "log_dir": "where the data lies",
    "total_bytes": "the disk's, and it changes",
    "usable_bytes": "the disk's, and it changes",
    "throttle_time_ms": "nobody throttles here; Kafka's quota code may round up",
    "finalized_features_epoch": "each server counts its own metadata changes",
    "supported_features": "a feature only where it is served (share groups, ... are not yet)",
    "finalized_features": "a level only where it is served",
    "documentation": "our own words",
}
"""Only the type and whether it is null, empty, negative or zero are compared."""

OWN_IDS = {
    "session_id": "fetch sessions get random ids; 0 is none",
    "member_id": "the client id or instance id and a random UUID",
    "leader": "a member id",
    "topic_id": "random; compared by the name of the topic that it was given to",
    "producer_id": "of InitProducerId: each server's own blocks",
}
"""Named in the order of their appearance, so that the same id must stand in the same places."""

MESSAGES = {
    "error_message": "our own words; compared (null or empty) only beside error_code 0",
    "batch_index_error_message": "our own words",
}

BESIDE_AN_ERROR = {
    "log_start_offset": "Produce: Kafka tells it or -1, by which of its layers refused; no client reads it",
}

GIVE_PRODUCER_IDS = ("InitProducerId", "EndTxn", "DescribeTransactions")
"""Answers in which a producer id may be seen for the first time; elsewhere only those are named that are known."""

NOW_MS_MIN = 1_780_000_000_000
"""A time from here on is 'now': every time that a test chooses lies before it, or far beyond the next."""
NOW_MS_MAX = 2_500_000_000_000

UNORDERED = "lists of names, or of things with a name, an id or an index, are compared sorted: Kafka's is a hash's"

ABORTED_BEYOND = (
    "Kafka tells of aborted transactions up to the next entry of its index, also beyond the last stable offset: those "
    "are left out"
)

CUT_TAIL = "Kafka may cut the last batch of a Fetch in the middle; what is cut is no batch and is not compared"

KAFKA_FELL_OVER = (
    "where Kafka's handler falls over (UNKNOWN_SERVER_ERROR), any error of logd's will do: the reliability table "
    "asks for a code that names the mistake"
)


NOT_ASKED = {
    "settings of share and streams groups": "they come with the features they belong to",
    "GetTelemetrySubscriptions, PushTelemetry": "Kafka serves them only with a plugin, which makes what they answer",
    "broker loggers (type 8)": "logd has no log levels that are set from outside",
    "local.retention.*, other than the default": "no tiered storage: logd refuses what it does not obey",
    "UnregisterBroker of the only broker": "Kafka does it, and serves nothing from then on; logd refuses",
    "AddPartitionsToTxn 4 and later with no transactions": "Kafka 4.3.1 never answers",
    "null records in Produce; AlterConfigs of one resource twice": "Kafka 4.3.1 never answers",
    "markers for a partition that is there and one that is not, in one request": "Kafka 4.3.1 never answers",
    "a batch of an open transaction after one of a future epoch that the coordinator refused": (
        "Kafka 4.3.1 refuses it, by the sequence of the refused one (story 319 of transactions); logd stores it: "
        "docs/decisions/0019-transactions.md"
    ),
    "the aborted transactions of a Fetch that is cut short": "Kafka adds later ones; logd gives those of what it sends",
    "a subscription that is rubbish": "Kafka 4.3.1 allocates what its bytes claim and never answers",
}
"""What the corpus leaves out."""


@dataclass(frozen=True, slots=True)
class Purpose:
    """An answer that differs on purpose.

    :param path: pattern (fnmatch) of `case/Api vN/path` of the difference.
    """

    path: str
    reason: str


_TIERS = "no tiered storage: there is no such broker setting, and only the default is accepted on a topic"

_STRICTER = "stricter than Kafka, as the table of bad input asks: the connection is closed and the log says why"

ON_PURPOSE = (
    Purpose("bad-headers/client id/", _STRICTER),
    Purpose("bad-fields/name that/", _STRICTER),
    Purpose("bad-fields/the same/", _STRICTER),
    Purpose("bad-fields/tags not/", _STRICTER),
    Purpose("null-where-none-may-be/array of/", _STRICTER),
    Purpose("describe-*configs*/*[[]log[.]local.retention.*", _TIERS),
    Purpose("describe-*configs*/*[[]local.retention.*", _TIERS),
    Purpose("create-topics-configs-v?/*.configs[[]*.value", "values are kept in logd's own spelling (TRUE, ' 1000 ')"),
    Purpose("fetch-unknown*/Fetch v1?/.error_code", "a zero topic id is told for its partition; Kafka falls over"),
    Purpose("fetch-unknown*/Fetch v1?/.responses", "a zero topic id is told for its partition; Kafka falls over"),
    Purpose(
        "delete-records*/ListOffsets*",
        "the greatest timestamp (-3) is looked for in what is left; Kafka also finds records that are deleted already",
    ),
    Purpose(
        "list-offsets-equal-times*/*",
        "-3 with no record that has a timestamp: nothing, while Kafka gives the first offset without one",
    ),
)

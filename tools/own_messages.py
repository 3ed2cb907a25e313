"""The specifications of logd's own messages, in the form of Kafka's, for ``tools/schemas.py``.

What only logd has travels on the Kafka port under keys from 30000; a broker that serves them says so by the supported
feature ``logd.version``. A field that is added gets a new version, as in any other message.
"""

from __future__ import annotations

from typing import Any

Spec = dict[str, Any]


def _field(name: str, kind: str, *, fields: list[Spec] | None = None, null: bool = False, default: Any = None) -> Spec:
    field: Spec = {"name": name, "type": kind, "versions": "0+"}
    if fields is not None:
        field["fields"] = fields
    if null:
        field["nullableVersions"] = "0+"
    if default is not None:
        field["default"] = default
    return field


def _message(kind: str, key: int, name: str, fields: list[Spec]) -> Spec:
    spec: Spec = {"apiKey": key, "type": kind, "name": name, "validVersions": "0", "flexibleVersions": "0+"}
    if kind == "request":
        spec["listeners"] = ["broker"]
    return {**spec, "fields": fields}


def _pair(key: int, name: str, request: list[Spec], response: list[Spec]) -> list[Spec]:
    return [
        _message("request", key, f"{name}Request", request),
        _message("response", key, f"{name}Response", [_field("ThrottleTimeMs", "int32"), *response]),
    ]


_ERROR = [
    _field("ErrorCode", "int16"),
    _field("ErrorMessage", "string", null=True, default="null"),
]

_SEEK_GROUP = _pair(
    30000,
    "SeekGroup",
    [
        _field("GroupId", "string"),
        _field(
            "Topics",
            "[]SeekGroupTopic",
            fields=[
                _field("Name", "string"),
                _field(
                    "Partitions",
                    "[]SeekGroupPartition",
                    fields=[
                        _field("PartitionIndex", "int32"),
                        _field("Offset", "int64"),
                        _field("LeaderEpoch", "int32", default="-1"),
                        _field("Metadata", "string", null=True, default="null"),
                    ],
                ),
            ],
        ),
        _field("ValidateOnly", "bool"),
    ],
    [
        *_ERROR,
        _field("GroupType", "string"),
        _field("Epoch", "int32", default="-1"),
        _field("MembersFenced", "int32"),
        _field(
            "Topics",
            "[]SeekGroupTopicResult",
            fields=[
                _field("Name", "string"),
                _field(
                    "Partitions",
                    "[]SeekGroupPartitionResult",
                    fields=[
                        _field("PartitionIndex", "int32"),
                        *_ERROR,
                        _field("OffsetBefore", "int64", default="-1"),
                        _field("Offset", "int64", default="-1"),
                    ],
                ),
            ],
        ),
    ],
)

_GROUP_LAG = _pair(
    30001,
    "GroupLag",
    [_field("GroupIds", "[]string", null=True)],
    [
        *_ERROR,
        _field(
            "Groups",
            "[]LaggingGroup",
            fields=[
                _field("GroupId", "string"),
                *_ERROR,
                _field("GroupType", "string"),
                _field("State", "string"),
                _field("MemberCount", "int32"),
                _field("Lag", "int64", default="-1"),
                _field("LagMs", "int64", default="-1"),
                _field(
                    "Topics",
                    "[]LaggingTopic",
                    fields=[
                        _field("Name", "string"),
                        _field(
                            "Partitions",
                            "[]LaggingPartition",
                            fields=[
                                _field("PartitionIndex", "int32"),
                                *_ERROR,
                                _field("CommittedOffset", "int64", default="-1"),
                                _field("CommittedMs", "int64", default="-1"),
                                _field("StartOffset", "int64", default="-1"),
                                _field("EndOffset", "int64", default="-1"),
                                _field("Lag", "int64", default="-1"),
                                _field("LagMs", "int64", default="-1"),
                                _field("MemberId", "string"),
                                _field("InstanceId", "string", null=True, default="null"),
                                _field("ClientId", "string"),
                                _field("ClientHost", "string"),
                            ],
                        ),
                    ],
                ),
            ],
        ),
    ],
)

_WHY = _pair(
    30002,
    "Why",
    [
        _field("SubjectType", "int8"),
        _field("Subject", "string"),
        _field("EventsMax", "int32", default="100"),
        _field("SinceMs", "int64", default="-1"),
    ],
    [
        *_ERROR,
        _field("NowMs", "int64"),
        _field("Forgotten", "int64"),
        _field(
            "Findings",
            "[]Finding",
            fields=[
                _field("Kind", "string"),
                _field("Text", "string"),
                _field("Facts", "[]FindingFact", fields=[_field("Name", "string"), _field("Value", "string")]),
            ],
        ),
        _field(
            "Events",
            "[]WhyEvent",
            fields=[
                _field("TimeMs", "int64"),
                _field("SubjectType", "int8"),
                _field("Subject", "string"),
                _field("Kind", "string"),
                _field("Text", "string"),
                _field("Facts", "[]EventFact", fields=[_field("Name", "string"), _field("Value", "string")]),
            ],
        ),
    ],
)

_CLIENT_METRICS = _pair(
    30003,
    "ClientMetrics",
    [
        _field("ClientInstanceId", "uuid"),
        _field("Prefix", "string"),
    ],
    [
        *_ERROR,
        _field(
            "Clients",
            "[]MeasuredClient",
            fields=[
                _field("ClientInstanceId", "uuid"),
                _field("ClientId", "string"),
                _field("SoftwareName", "string"),
                _field("SoftwareVersion", "string"),
                _field("Address", "string"),
                _field("PushedMs", "int64"),
                _field("Pushes", "int64"),
                _field("Terminating", "bool"),
                _field(
                    "Metrics",
                    "[]MeasuredMetric",
                    fields=[
                        _field("Name", "string"),
                        _field("Labels", "[]MetricLabel", fields=[_field("Name", "string"), _field("Value", "string")]),
                        _field("Value", "float64"),
                    ],
                ),
            ],
        ),
    ],
)

_RUN_JOB = _pair(
    30004,
    "RunJob",
    [
        _field("Job", "string"),
        _field("Topics", "[]string", null=True, default="null"),
        _field("DryRun", "bool"),
        _field("JobId", "int64", default="-1"),
        _field("WaitMs", "int32"),
        _field("Stop", "bool"),
    ],
    [
        *_ERROR,
        _field("JobId", "int64", default="-1"),
        _field("Finished", "bool"),
        _field("At", "string"),
        _field("Passed", "int64"),
        _field("Total", "int64"),
        _field(
            "Partitions",
            "[]JobPartition",
            fields=[
                _field("Topic", "string"),
                _field("PartitionIndex", "int32"),
                *_ERROR,
                _field("FirstOffset", "int64"),
                _field("NextOffset", "int64"),
                _field("Segments", "int32"),
                _field("Bytes", "int64"),
                _field("BytesAfter", "int64"),
                _field("OldestMs", "int64"),
                _field("NewestMs", "int64"),
            ],
        ),
    ],
)

_ALL = (*_SEEK_GROUP, *_GROUP_LAG, *_WHY, *_CLIENT_METRICS, *_RUN_JOB)
MESSAGES: dict[str, Spec] = {spec["name"]: spec for spec in _ALL}

"""Every API that a Kafka 4.3.1 broker tells of, one by one: served in the same versions, or absent for a reason."""

from __future__ import annotations

import pytest

from logd.testing import Broker
from logd.wire import schemas
from logd.wire.schemas.api_versions import ApiVersionsRequest
from tests.kafka_node import kafka_bootstrap
from tests.raw import Peer

SECURITY = "no TLS, no logins, no access control yet: clients that ask are told so by the absence"
QUOTAS = "no quotas yet"
RAFT = "there is no raft quorum whose voters could change: the controller is chosen by a lease"
SHARE = "share groups are not built yet; share.version is not announced either"
STREAMS = "streams groups are not built; streams.version is not announced either, and Kafka Streams uses classic groups"

KAFKA = {
    0: ("Produce", 0, 13, ""),
    1: ("Fetch", 4, 18, ""),
    2: ("ListOffsets", 1, 11, ""),
    3: ("Metadata", 0, 13, ""),
    8: ("OffsetCommit", 2, 10, ""),
    9: ("OffsetFetch", 1, 10, ""),
    10: ("FindCoordinator", 0, 6, ""),
    11: ("JoinGroup", 0, 9, ""),
    12: ("Heartbeat", 0, 4, ""),
    13: ("LeaveGroup", 0, 5, ""),
    14: ("SyncGroup", 0, 5, ""),
    15: ("DescribeGroups", 0, 6, ""),
    16: ("ListGroups", 0, 5, ""),
    17: ("SaslHandshake", 0, 1, SECURITY),
    18: ("ApiVersions", 0, 4, ""),
    19: ("CreateTopics", 2, 7, ""),
    20: ("DeleteTopics", 1, 6, ""),
    21: ("DeleteRecords", 0, 2, ""),
    22: ("InitProducerId", 0, 5, ""),
    23: ("OffsetForLeaderEpoch", 2, 4, ""),
    24: ("AddPartitionsToTxn", 0, 5, ""),
    25: ("AddOffsetsToTxn", 0, 4, ""),
    26: ("EndTxn", 0, 5, ""),
    27: ("WriteTxnMarkers", 1, 2, ""),
    28: ("TxnOffsetCommit", 0, 5, ""),
    29: ("DescribeAcls", 1, 3, SECURITY),
    30: ("CreateAcls", 1, 3, SECURITY),
    31: ("DeleteAcls", 1, 3, SECURITY),
    32: ("DescribeConfigs", 1, 4, ""),
    33: ("AlterConfigs", 0, 2, ""),
    34: ("AlterReplicaLogDirs", 1, 2, ""),
    35: ("DescribeLogDirs", 1, 5, ""),
    36: ("SaslAuthenticate", 0, 2, SECURITY),
    37: ("CreatePartitions", 0, 3, ""),
    38: ("CreateDelegationToken", 1, 3, SECURITY),
    39: ("RenewDelegationToken", 1, 2, SECURITY),
    40: ("ExpireDelegationToken", 1, 2, SECURITY),
    41: ("DescribeDelegationToken", 1, 3, SECURITY),
    42: ("DeleteGroups", 0, 2, ""),
    43: ("ElectLeaders", 0, 2, ""),
    44: ("IncrementalAlterConfigs", 0, 1, ""),
    45: ("AlterPartitionReassignments", 0, 1, ""),
    46: ("ListPartitionReassignments", 0, 0, ""),
    47: ("OffsetDelete", 0, 0, ""),
    48: ("DescribeClientQuotas", 0, 1, QUOTAS),
    49: ("AlterClientQuotas", 0, 1, QUOTAS),
    50: ("DescribeUserScramCredentials", 0, 0, SECURITY),
    51: ("AlterUserScramCredentials", 0, 0, SECURITY),
    55: ("DescribeQuorum", 0, 2, ""),
    57: ("UpdateFeatures", 0, 2, ""),
    60: ("DescribeCluster", 0, 2, ""),
    61: ("DescribeProducers", 0, 0, ""),
    64: ("UnregisterBroker", 0, 0, ""),
    65: ("DescribeTransactions", 0, 0, ""),
    66: ("ListTransactions", 0, 2, ""),
    68: ("ConsumerGroupHeartbeat", 0, 1, ""),
    69: ("ConsumerGroupDescribe", 0, 1, ""),
    74: ("ListConfigResources", 0, 1, ""),
    75: ("DescribeTopicPartitions", 0, 0, ""),
    76: ("ShareGroupHeartbeat", 1, 1, SHARE),
    77: ("ShareGroupDescribe", 1, 1, SHARE),
    78: ("ShareFetch", 1, 2, SHARE),
    79: ("ShareAcknowledge", 1, 2, SHARE),
    80: ("AddRaftVoter", 0, 1, RAFT),
    81: ("RemoveRaftVoter", 0, 0, RAFT),
    83: ("InitializeShareGroupState", 0, 0, SHARE),
    84: ("ReadShareGroupState", 0, 0, SHARE),
    85: ("WriteShareGroupState", 0, 1, SHARE),
    86: ("DeleteShareGroupState", 0, 0, SHARE),
    87: ("ReadShareGroupStateSummary", 0, 1, SHARE),
    88: ("StreamsGroupHeartbeat", 0, 0, STREAMS),
    89: ("StreamsGroupDescribe", 0, 0, STREAMS),
    90: ("DescribeShareGroupOffsets", 0, 1, SHARE),
    91: ("AlterShareGroupOffsets", 0, 0, SHARE),
    92: ("DeleteShareGroupOffsets", 0, 0, SHARE),
}
"""By key: the name, the versions that Apache Kafka 4.3.1 tells of, and why it is absent here ("": it is served)."""

FEATURES = {
    "group.version": ((0, 1), ""),
    "metadata.version": ((7, 30), ""),
    "transaction.version": ((0, 2), ""),
    "kraft.version": ((0, 1), RAFT),
    "share.version": ((0, 1), SHARE),
    "streams.version": ((0, 1), STREAMS),
    "eligible.leader.replicas.version": ((0, 1), "one replica of each partition: there is nobody else to elect"),
}


def told(bootstrap: str) -> tuple[dict[int, tuple[int, int]], dict[str, tuple[int, int]]]:
    """The APIs and features that a server tells of."""
    with Peer(bootstrap) as peer:
        answer = peer.ask(ApiVersionsRequest("raw", "1"), 4)
    keys = {each.api_key: (each.min_version, each.max_version) for each in answer.api_keys}
    return keys, {each.name: (each.min_version, each.max_version) for each in answer.supported_features}


def test_what_is_told_is_all_of_kafkas_that_is_not_absent_for_a_reason(logd_broker: Broker) -> None:
    """No API more and none less, each in Kafka's versions; logd.version stands for logd's own requests."""
    keys, features = told(logd_broker.bootstrap)
    assert keys == {key: (low, high) for key, (_, low, high, why) in KAFKA.items() if not why}
    assert features == {name: span for name, (span, why) in FEATURES.items() if not why} | {"logd.version": (1, 1)}


def test_the_table_is_kafkas() -> None:
    """Apache Kafka 4.3.1 itself tells of exactly what stands in the table above."""
    keys, features = told(kafka_bootstrap())
    assert keys == {key: (low, high) for key, (_, low, high, _) in KAFKA.items()}
    assert features == {name: span for name, (span, _) in FEATURES.items()}


@pytest.mark.parametrize("key", [key for key, (*_, why) in KAFKA.items() if not why])
def test_names(key: int) -> None:
    """The table's names are those of the messages."""
    assert schemas.APIS[key].name == KAFKA[key][0]

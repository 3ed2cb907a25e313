"""The APIs that this client calls: key, and the versions whose meaning it knows.

:meth:`logd.client.connection.Connection.ask` picks the highest version that both sides speak. Never encodes:
that is ``logd.wire``.
"""

from __future__ import annotations

from typing import NamedTuple


class Call(NamedTuple):
    """One API as this client speaks it; `lowest` and `highest` are versions, both included."""

    name: str
    key: int
    lowest: int
    highest: int


PRODUCE = Call("Produce", 0, 3, 13)
FETCH = Call("Fetch", 1, 4, 17)
LIST_OFFSETS = Call("ListOffsets", 2, 1, 10)
METADATA = Call("Metadata", 3, 4, 13)
OFFSET_COMMIT = Call("OffsetCommit", 8, 2, 9)
OFFSET_FETCH = Call("OffsetFetch", 9, 2, 9)
FIND_COORDINATOR = Call("FindCoordinator", 10, 0, 6)
JOIN_GROUP = Call("JoinGroup", 11, 2, 9)
HEARTBEAT = Call("Heartbeat", 12, 0, 4)
LEAVE_GROUP = Call("LeaveGroup", 13, 0, 5)
SYNC_GROUP = Call("SyncGroup", 14, 0, 5)
DESCRIBE_GROUPS = Call("DescribeGroups", 15, 0, 6)
LIST_GROUPS = Call("ListGroups", 16, 0, 5)
API_VERSIONS = Call("ApiVersions", 18, 0, 4)
CREATE_TOPICS = Call("CreateTopics", 19, 2, 7)
DELETE_TOPICS = Call("DeleteTopics", 20, 1, 6)
DELETE_RECORDS = Call("DeleteRecords", 21, 0, 2)
INIT_PRODUCER_ID = Call("InitProducerId", 22, 0, 5)
ADD_PARTITIONS_TO_TXN = Call("AddPartitionsToTxn", 24, 0, 3)
ADD_OFFSETS_TO_TXN = Call("AddOffsetsToTxn", 25, 0, 4)
END_TXN = Call("EndTxn", 26, 0, 5)
TXN_OFFSET_COMMIT = Call("TxnOffsetCommit", 28, 3, 5)
DESCRIBE_CONFIGS = Call("DescribeConfigs", 32, 1, 4)
DESCRIBE_LOG_DIRS = Call("DescribeLogDirs", 35, 1, 4)
CREATE_PARTITIONS = Call("CreatePartitions", 37, 0, 3)
DELETE_GROUPS = Call("DeleteGroups", 42, 0, 2)
INCREMENTAL_ALTER_CONFIGS = Call("IncrementalAlterConfigs", 44, 0, 1)
OFFSET_DELETE = Call("OffsetDelete", 47, 0, 0)
DESCRIBE_CLUSTER = Call("DescribeCluster", 60, 0, 2)
DESCRIBE_PRODUCERS = Call("DescribeProducers", 61, 0, 0)
DESCRIBE_TRANSACTIONS = Call("DescribeTransactions", 65, 0, 0)
LIST_TRANSACTIONS = Call("ListTransactions", 66, 0, 2)
WRITE_TXN_MARKERS = Call("WriteTxnMarkers", 27, 1, 2)
CONSUMER_GROUP_HEARTBEAT = Call("ConsumerGroupHeartbeat", 68, 0, 1)
CONSUMER_GROUP_DESCRIBE = Call("ConsumerGroupDescribe", 69, 0, 1)
LIST_CONFIG_RESOURCES = Call("ListConfigResources", 74, 1, 1)

# Only logd offers these: it does not list them among its versions, but has the feature `logd.version`.
OWN_KEYS_FROM = 30_000
SEEK_GROUP = Call("SeekGroup", 30_000, 0, 0)
GROUP_LAG = Call("GroupLag", 30_001, 0, 0)
WHY = Call("Why", 30_002, 0, 0)
RUN_JOB = Call("RunJob", 30_004, 0, 0)

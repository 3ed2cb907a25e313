"""A damaged `__consumer_offsets`: its groups are refused, never begun anew; all else serves."""

from __future__ import annotations

from pathlib import Path

from logd.errors import ErrorCode
from logd.wire.schemas.find_coordinator import FindCoordinatorRequest
from logd.wire.schemas.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
)
from logd.wire.schemas.offset_fetch import OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics
from tests.process.server import Server
from tests.raw import Peer, batch, produce_request


def committed(peer: Peer) -> tuple[int, int]:
    """Error code and offset that the group is told."""
    topics = [OffsetFetchRequestTopics("t", partition_indexes=[0])]
    group = peer.ask(OffsetFetchRequest(groups=[OffsetFetchRequestGroup("g", topics=topics)]), 9).groups[0]
    if group.error_code or not group.topics:
        return group.error_code, -1
    return group.topics[0].partitions[0].error_code, group.topics[0].partitions[0].committed_offset


def test_damaged_offsets(tmp_path: Path) -> None:
    """A group whose commits cannot be read gets an error and not "nothing is committed"."""
    options = ("--set", "offsets.topic.num.partitions=1")
    for damage in ("meta", "batch"):
        with Server(tmp_path / damage, *options) as server:
            with Peer(server.bootstrap) as peer:
                peer.make_topic("t")
                assert peer.ask(FindCoordinatorRequest(coordinator_keys=["g"]), 4).coordinators[0].error_code == 0
                part = OffsetCommitRequestPartition(0, 5)
                commit = OffsetCommitRequest("g", -1, "", topics=[OffsetCommitRequestTopic("t", partitions=[part])])
                for _ in range(2):
                    answer = peer.ask(commit, 8)
                assert answer.topics[0].partitions[0].error_code == 0
                assert committed(peer) == (0, 5)
            assert server.stop()[0] == 0
            log = tmp_path / damage / "__consumer_offsets-0"
            file = log / ("partition.meta" if damage == "meta" else "00000000000000000000.log")
            content = bytearray(file.read_bytes())
            content[20] ^= 1
            file.write_bytes(content)
            server.start()
            with Peer(server.bootstrap) as peer:
                code, offset = committed(peer)
                assert offset == -1
                assert code in (ErrorCode.NOT_COORDINATOR, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS)
                produced = peer.ask(produce_request("t", batch(b"x")), 9)
                assert produced.responses[0].partition_responses[0].error_code == 0

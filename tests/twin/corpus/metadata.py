"""Metadata, DescribeTopicPartitions, DescribeCluster, ApiVersions: what a client learns first."""

from __future__ import annotations

import struct
import uuid

from ..tale import VERSIONS, Tale, case

SOME_ID = uuid.UUID("11111111-2222-3333-4444-555555555555")
BAD_NAMES = ("", ".", "..", "a/b", "a b", "nul\0", "ü", "x" * 250, "x" * 249)


@case("api-versions", versions="ApiVersions")
def api_versions(t: Tale, version: int) -> None:
    t.ask("ApiVersions", version, client_software_name="twin", client_software_version="1.0")


@case("api-versions-client-software")
def api_versions_client_software(t: Tale) -> None:
    for name, number in (("", ""), ("a b", "1"), ("-a", "1"), ("a", ""), ("a", "1.2-x"), ("ü", "1"), ("a.", "1")):
        t.ask("ApiVersions", 3, on=t.another(), client_software_name=name, client_software_version=number)


@case("api-versions-too-new")
def api_versions_too_new(t: Tale) -> None:
    """A version that the server does not have is answered in v0, with the error and the one API's range."""
    for version in (5, 9, 32767):
        connection = t.another()
        header = t.specs.request_header(18, version, 77, "twin") + b"\0"
        connection.send_frame(header)
        frame = connection.receive_frame()
        t.note(
            f"ApiVersions v{version}",
            [
                struct.unpack_from(">i", frame)[0],
                t.specs.decode("ApiVersionsResponse", 0, frame, 4)[0],
                frame[4:].hex()[:60],
            ],
        )
        connection.send_frame(t.specs.request("ApiVersions", 0, 78, "twin", {}))
        t.note("and then v0", t.specs.response("ApiVersions", 0, connection.receive_frame())[1]["error_code"])


@case("api-versions-negative")
def api_versions_negative(t: Tale) -> None:
    connection = t.another()
    connection.send_frame(t.specs.request_header(18, -1, 77, "twin"))
    try:
        frame = connection.receive_frame()
        t.note("v-1", frame.hex()[:40])
    except Exception as e:
        t.note("v-1", type(e).__name__)


@case("unserved-versions")
def unserved(t: Tale) -> None:
    """An API version that is not advertised closes the connection."""
    for api, versions in VERSIONS.items():
        for version in (versions.start - 1, versions.stop):
            if api in ("ApiVersions", "Produce") or version < 0:
                continue
            connection = t.another()
            connection.send_frame(t.specs.request_header(t.specs.key(api), version, 5, "twin") + b"\0\0\0\0\0\0\0\0")
            t.note(f"{api} v{version} closes", connection.is_closed_by_peer())


@case("unknown-api")
def unknown_api(t: Tale) -> None:
    for key in (-1, 4, 5, 6, 7, 52, 56, 58, 62, 67, 93, 1000, 32767):
        connection = t.another()
        connection.send_frame(t.specs.request_header(key, 0, 5, "twin") + b"\0" * 8)
        t.note(f"key {key} closes", connection.is_closed_by_peer())


@case("metadata-by-name", versions="Metadata")
def metadata_by_name(t: Tale, version: int) -> None:
    t.create("a", 3)
    t.create("b")
    t.ask("Metadata", version, topics=[{"name": t.name("b")}, {"name": t.name("a")}], allow_auto_topic_creation=False)
    t.ask("Metadata", version, topics=[{"name": t.name("a")}, {"name": t.name("a")}], allow_auto_topic_creation=False)


@case("metadata-authorized-operations", versions=(8, 10, 11, 13))
def metadata_operations(t: Tale, version: int) -> None:
    t.create("a")
    t.ask(
        "Metadata",
        version,
        topics=[{"name": t.name("a")}],
        allow_auto_topic_creation=False,
        include_topic_authorized_operations=True,
        include_cluster_authorized_operations=True,
    )
    named = [{"name": name} for name in (t.name("none"), "a/b", t.name("a"), "__consumer_offsets")]
    t.ask(
        "Metadata",
        version,
        topics=named[:3] if version < 10 else named,
        allow_auto_topic_creation=False,
        include_topic_authorized_operations=True,
    )
    for topic_id in (t.wait_for(t.name("a")), SOME_ID) if version >= 12 else ():
        rows = [{"topic_id": topic_id, "name": None}]
        t.ask("Metadata", version, topics=rows, include_topic_authorized_operations=True)


@case("metadata-none", versions=(0, 1, 9, 13))
def metadata_none(t: Tale, version: int) -> None:
    """An empty array asks for no topic, but in v0 for all."""
    t.create("a")
    answer = t.quiet("Metadata", version, topics=[], allow_auto_topic_creation=False)
    own = [topic for topic in answer["topics"] if topic["name"].startswith(t.slug)]
    t.note("own topics", own)


@case("metadata-all", versions=(1, 5, 9, 13))
def metadata_all(t: Tale, version: int) -> None:
    t.create("a", 2)
    answer = t.quiet("Metadata", version, topics=None, allow_auto_topic_creation=False)
    t.note("own topics", [topic for topic in answer["topics"] if topic["name"].startswith(t.slug)])


@case("metadata-unknown", versions="Metadata")
def metadata_unknown(t: Tale, version: int) -> None:
    """Unknown and invalid names; v0-3 always allow the topic to be made, so only names that cannot be."""
    names = BAD_NAMES[:-1] if version < 4 else (*BAD_NAMES, t.name("unknown"))
    for name in names:
        t.ask("Metadata", version, topics=[{"name": name}], allow_auto_topic_creation=False)
    t.ask("Metadata", version, topics=[{"name": n} for n in ("..", ".", "a/b")], allow_auto_topic_creation=False)


@case("metadata-ids", versions=range(10, 14))
def metadata_ids(t: Tale, version: int) -> None:
    id_a = t.create("a")
    zero = uuid.UUID(int=0)
    for topics in (
        [{"topic_id": id_a, "name": None}],
        [{"topic_id": id_a, "name": t.name("a")}],
        [{"topic_id": id_a, "name": "other"}],
        [{"topic_id": SOME_ID, "name": None}],
        [{"topic_id": SOME_ID, "name": t.name("a")}],
        [{"topic_id": zero, "name": None}],
        [{"topic_id": id_a, "name": None}, {"topic_id": zero, "name": t.name("a")}],
        [{"topic_id": id_a, "name": None}, {"topic_id": SOME_ID, "name": None}],
        [{"topic_id": uuid.UUID(int=1), "name": None}],
    ):
        t.ask("Metadata", version, topics=topics, allow_auto_topic_creation=False)


@case("metadata-auto-create", versions=(0, 3, 4, 9, 12, 13))
def metadata_auto_create(t: Tale, version: int) -> None:
    """The first question makes it: Kafka answers that it is not there, logd with the topic."""
    t.quiet("Metadata", version, topics=[{"name": t.name("new")}], allow_auto_topic_creation=True)
    t.wait_for(t.name("new"))
    t.ask("Metadata", version, topics=[{"name": t.name("new")}], allow_auto_topic_creation=True)


@case("metadata-auto-create-edges")
def metadata_auto_create_edges(t: Tale) -> None:
    for name in ("a/b", "", "__consumer_offsets"):
        t.ask("Metadata", 12, topics=[{"name": name}], allow_auto_topic_creation=True)
    t.create("x.y")
    t.ask("Metadata", 12, topics=[{"name": t.name("x_y")}], allow_auto_topic_creation=True)
    t.ask("Metadata", 12, topics=[{"name": t.name("x_y")}], allow_auto_topic_creation=False)


@case("describe-cluster", versions="DescribeCluster")
def describe_cluster(t: Tale, version: int) -> None:
    t.ask("DescribeCluster", version)
    t.ask("DescribeCluster", version, include_cluster_authorized_operations=True)
    for endpoint in (0, 1, 2, 3):
        t.ask("DescribeCluster", version, endpoint_type=endpoint)
    t.ask("DescribeCluster", version, include_fenced_brokers=True)


def _dtp(t: Tale, *names: str, limit: int = 2000, cursor: tuple[str, int] | None = None) -> None:
    at = None if cursor is None else {"topic_name": cursor[0], "partition_index": cursor[1]}
    topics = [{"name": name} for name in names]
    t.ask("DescribeTopicPartitions", 0, topics=topics, response_partition_limit=limit, cursor=at)


@case("describe-topic-partitions")
def describe_topic_partitions(t: Tale) -> None:
    t.create("a", 3)
    t.create("b", 3)
    a, b = t.name("a"), t.name("b")
    _dtp(t, b, a)
    _dtp(t, a, a)
    for limit in (0, -1, 1, 2, 3, 4, 5, 6, 7):
        _dtp(t, a, b, limit=limit)
    for cursor in (
        (a, 0),
        (a, 1),
        (a, 3),
        (a, 9),
        (a, -1),
        (b, 0),
        (b, 2),
        (t.name("aa"), 0),
        (t.name("z"), 0),
        ("", 0),
    ):
        _dtp(t, a, b, limit=2, cursor=cursor)
    for limit in (3, 4):
        _dtp(t, a, t.name("aa"), b, limit=limit)
    _dtp(t, a, t.name("aa"), limit=3)
    _dtp(t, t.name("none"), a, limit=2)
    _dtp(t, t.name("none"))
    for name in BAD_NAMES:
        _dtp(t, name)
    for cursor in ((a, 2), (t.name("none"), 0), ("", 0)):
        _dtp(t, "", a, cursor=cursor)


@case("describe-topic-partitions-all")
def describe_topic_partitions_all(t: Tale) -> None:
    """No names mean all topics; asked from a cursor so that other cases' topics before it do not show."""
    t.create("a", 2)
    answer = t.quiet("DescribeTopicPartitions", 0, topics=[], cursor={"topic_name": t.name("a"), "partition_index": 1})
    t.note("own", [topic for topic in answer["topics"] if topic["name"].startswith(t.slug)])

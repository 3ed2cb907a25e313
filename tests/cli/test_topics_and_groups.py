"""`topic`, `group` and `cluster` against real brokers."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import Consumer as OtherConsumer
from confluent_kafka import TopicPartition as OtherPartition

from logd.cli.configs import check_there
from logd.cli.failures import Failure
from logd.cli.groups import existing_group
from logd.client.configs import Resource
from logd.client.groups import ListedGroup
from logd.errors import ErrorCode, Refused
from tests.cli.conftest import Cli


def test_the_life_of_a_topic(cli: Cli, topic: str) -> None:
    """Created, listed, described, altered, deleted, gone."""
    assert [topic, "2", "1", "no"] in cli("topic", "list").rows
    assert cli("topic", "describe", topic).rows == [
        [topic, "0", "0", "0", "0", "0", "0", "0", "0"],
        [topic, "1", "0", "0", "0", "0", "0", "0", "0"],
    ]
    altered = cli("topic", "alter", topic, "-c", "retention.ms=1000", "-p", "3")
    assert (altered.code, altered.out, altered.err) == (0, "", f"topic '{topic}' altered\n")
    shown = json.loads(cli("topic", "describe", topic, "-o", "json").out)
    assert [part["partition"] for part in shown["partitions"]] == [0, 1, 2]
    assert shown["configs"] == [{"name": "retention.ms", "value": "1000", "source": "topic"}]
    assert cli("topic", "alter", topic, "--unset", "retention.ms").code == 0
    assert json.loads(cli("topic", "describe", topic, "-o", "json").out)["configs"] == []
    assert cli("topic", "delete", topic, "--yes").code == 0
    gone = cli("topic", "describe", topic)
    assert (gone.code, gone.out) == (5, "")


def test_a_name_that_is_nearly_right(cli: Cli, topic: str) -> None:
    """An unknown topic is exit code 5 and names the nearest, for every command that takes one."""
    for arguments in (("topic", "describe"), ("topic", "delete"), ("consume",), ("produce",), ("topic", "alter")):
        more = ["-p", "4"] if arguments[-1] == "alter" else []
        ran = cli(*arguments, topic[:-1], *more)
        assert (ran.code, ran.out) == (5, "")
        assert f"topic '{topic[:-1]}' does not exist" in ran.err
        assert f"did you mean '{topic}'" in ran.err


def test_a_topic_that_exists_already(cli: Cli, topic: str) -> None:
    """It is exit code 6, unless --if-not-exists is given."""
    ran = cli("topic", "create", topic)
    assert ran.code == 6
    assert ran.err.startswith(f"error: cannot create topic '{topic}'\nwhy:   ")
    assert cli("topic", "create", topic, "--if-not-exists").code == 0


def test_some_done_and_some_not_is_exit_code_8(cli: Cli, topic: str) -> None:
    """What can be done is done, what can't is named."""
    ran = cli("topic", "create", f"{topic}-a", topic, "-p", "1")
    assert ran.code == 8
    assert f"topic '{topic}-a' created" in ran.err
    assert "cannot create 1 of 2 topics" in ran.err
    ran = cli("topic", "delete", f"{topic}-a", f"{topic}-b", "-y")
    assert ran.code == 8
    assert f"topic '{topic}-a' deleted" in ran.err


def test_a_dry_run_changes_nothing(cli: Cli, topic: str) -> None:
    """Create, alter and delete say what would be done, find what is wrong, and leave everything as it was."""
    assert "could be created" in cli("topic", "create", f"{topic}-dry", "--dry-run").err
    assert cli("topic", "create", "bad/name", "--dry-run").code == 1
    assert cli("topic", "alter", topic, "-p", "5", "-c", "retention.ms=7", "--dry-run").code == 0
    assert cli("topic", "alter", topic, "-c", "retention.ms=no", "--dry-run").code == 1
    assert cli("topic", "delete", topic, "--dry-run").rows == [[topic, "2", "0"]]
    names = cli("topic", "list", "-o", "name").out.splitlines()
    assert (topic in names, f"{topic}-dry" in names) == (True, False)
    assert len(cli("topic", "describe", topic).rows) == 2


def test_a_change_is_made_whole_or_not_at_all(cli: Cli, topic: str) -> None:
    """Settings stay as they were where the number of partitions is refused."""
    ran = cli("topic", "alter", topic, "-p", "1", "-c", "retention.ms=1000")
    assert (ran.code, "INVALID_PARTITIONS" in ran.err) == (1, True), ran.err
    assert cli("config", "get", "topic", topic, "--changed").out == ""


def test_a_dry_run_finds_what_is_not_there(cli: Cli, topic: str) -> None:
    """One of several names that does not exist is told, as it will be when they are deleted."""
    ran = cli("topic", "delete", topic, f"{topic}-not", "--dry-run")
    assert (ran.code, f"topic '{topic}-not' does not exist" in ran.err) == (5, True)


@pytest.mark.parametrize(("kind", "protocol"), [("share", "share"), ("", "streams")])
@pytest.mark.trio
async def test_a_group_of_another_kind(kind: str, protocol: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A group that is listed and can't be looked at is not said to be missing."""

    class Groups:
        async def describe(self, name: str) -> None:
            raise Refused(ErrorCode.GROUP_ID_NOT_FOUND, "not here")

        async def list(self) -> list[ListedGroup]:
            return [ListedGroup("orders", kind, "Stable", protocol)]

    admin: Any = SimpleNamespace(groups=Groups())
    with pytest.raises(Failure, match=f"it is of type {protocol}") as failed:
        await existing_group(admin, "orders")
    assert failed.value.code == 1
    await check_there(admin, Resource("group", "orders"))
    assert capsys.readouterr().err == ""
    with pytest.raises(Failure, match="does not exist") as failed:
        await existing_group(admin, "oders")
    assert failed.value.code == 5


def test_deleting_asks_for_the_name(cli: Cli, topic: str) -> None:
    """Only the very name deletes; another answer or none does not, and is exit code 1."""
    for answer in (b"", b"y\n", b"yes\n", topic[:-1].encode() + b"\n"):
        assert cli("topic", "delete", topic, stdin=answer).code == 1
    assert topic in cli("topic", "list", "-o", "name").out.splitlines()
    assert cli("topic", "delete", topic, stdin=topic.encode() + b"\n").code == 0


def test_a_setting_that_is_wrong(cli: Cli, topic: str) -> None:
    """The server's reason is shown with the name of its error, and nothing was changed."""
    ran = cli("topic", "alter", topic, "-c", "retention.ms=many")
    assert ran.code == 1
    assert "INVALID_CONFIG" in ran.err
    assert "retention.ms" in ran.err


def test_the_servers_own_topics_are_hidden(cli: Cli) -> None:
    """They show with --internal only."""
    assert cli("group", "describe", "nobody").code == 5  # asking for a coordinator makes the topic of the groups
    assert "__consumer_offsets" not in cli("topic", "list", "-o", "name").out
    assert "__consumer_offsets" in cli("topic", "list", "--internal", "-o", "name").out


def test_groups_and_their_lag(cli: Cli, topic: str, bootstrap: str) -> None:
    """Members, committed offsets and lag of a group that another library's consumer is in."""
    group = f"g-{topic}"
    assert cli("produce", topic, "-p", "0", stdin=b"a\nb\nc\n").code == 0
    settings = {"bootstrap.servers": bootstrap, "group.id": group, "auto.offset.reset": "earliest"}
    other = OtherConsumer({**settings, "client.id": "other", "enable.auto.commit": False})
    try:
        other.subscribe([topic])
        assert len(other.consume(3, timeout=30)) == 3
        other.commit(offsets=[OtherPartition(topic, 0, 1)], asynchronous=False)
        assert [group, "classic", "Stable", "consumer"] in cli("group", "list").rows
        lag = cli("group", "describe", group).rows
        assert [row[:6] for row in lag] == [[group, topic, "0", "1", "3", "2"], [group, topic, "1", "", "0", ""]]
        (member,) = cli("group", "describe", group, "--members").rows
        assert (member[3], member[5]) == ("other", f"{topic}/0,{topic}/1")
        shown = json.loads(cli("group", "describe", group, "-o", "json").out)
        assert (shown["state"], shown["lag"], len(shown["members"])) == ("Stable", 2, 1)
    finally:
        other.close()
    ran = cli("group", "describe", group[:-1])
    assert ran.code == 5
    assert f"did you mean '{group}'" in ran.err


def test_the_cluster(cli: Cli, bootstrap: str) -> None:
    """Its brokers as lines, everything in JSON, a table when asked for."""
    host, _, port = bootstrap.rpartition(":")
    ((broker, *rest),) = cli("cluster", "info").rows
    assert rest[:2] == [host, port]
    shown = json.loads(cli("cluster", "info", "-o", "json").out)
    assert shown["controller"] == int(broker)
    assert "brokers" in cli("cluster", "info", "-o", "table").out


def test_a_healthy_cluster(cli: Cli) -> None:
    """Four checks, all well, exit code 0."""
    ran = cli("cluster", "health")
    assert (ran.code, [row[:2] for row in ran.rows]) == (
        0,
        [[name, "ok"] for name in ("controller", "brokers", "leaders", "replicas")],
    )


def test_what_was_done_as_data(cli: Cli, topic: str) -> None:
    """Commands that only do something print what became of each name, where a form of the output is asked for."""
    ran = cli("topic", "create", f"{topic}-a", topic, "-p", "1", "-o", "json")
    assert (ran.code, json.loads(ran.out)) == (
        8,
        [{"topic": f"{topic}-a", "result": "created"}, {"topic": topic, "result": "TOPIC_ALREADY_EXISTS"}],
    )
    assert cli("topic", "create", f"{topic}-b", "--dry-run", "-o", "tsv").rows == [[f"{topic}-b", "could be created"]]
    assert cli("topic", "alter", topic, "-p", "3", "-o", "tsv").rows == [[topic, "altered"]]
    setting = ("config", "set", "topic", topic, "retention.ms=1000", "-o")
    assert json.loads(cli(*setting, "jsonl").out) == {"setting": "retention.ms", "result": "set"}
    assert cli("config", "unset", "topic", topic, "retention.ms", "-o", "name").out == "retention.ms\n"
    assert cli("topic", "delete", f"{topic}-a", "-y", "-o", "name").out == f"{topic}-a\n"
    assert cli("topic", "delete", topic, "-y").out == ""

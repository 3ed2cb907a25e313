"""Where settings come from, which one wins, and how a bad one is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from logd.config import BadSetting, Settings, load
from logd.config.foreign import why_absent
from logd.config.settings import DEFINITIONS, shown
from logd.config.topics import topic_defaults
from logd.config.values import parse
from tools import settings_reference


def test_defaults_are_kafkas_but_where_logd_says_otherwise() -> None:
    """Nothing given: Kafka's values, a group that does not wait, few partitions for offsets, flushing by groups."""
    settings = load()
    assert settings.log_segment_bytes == 1 << 30
    assert topic_defaults(settings).retention_ms == 7 * 24 * 3_600_000
    assert settings.message_max_bytes == 1_048_588
    assert (settings.group_initial_rebalance_delay_ms, settings.offsets_topic_num_partitions) == (0, 16)
    assert (settings.log_flush_mode, settings.node_id, settings.log_dirs) == ("group", 0, ("./logd-data",))
    assert settings.given == {}


def test_every_default_is_allowed() -> None:
    """What a setting has when nobody sets it passes its own check."""
    for name, definition in DEFINITIONS.items():
        text = shown(Settings(), name)
        assert parse(name, text, definition) == getattr(Settings(), name.replace(".", "_"))


def test_flag_beats_environment_beats_file(tmp_path: Path) -> None:
    """The same setting in three places: the flag wins, then the environment, then the file."""
    file = tmp_path / "logd.toml"
    file.write_text('"num.partitions" = 2\n"log.retention.ms" = 20\n"log.roll.ms" = 200\n')
    env = {"LOGD_NUM_PARTITIONS": "3", "LOGD_LOG_RETENTION_MS": "30", "HOME": "/nowhere"}
    settings = load(file, ["num.partitions=4"], env)
    assert (settings.num_partitions, settings.log_retention_ms, settings.log_roll_ms) == (4, 30, 200)
    assert settings.given == {"num.partitions": "4", "log.retention.ms": "30", "log.roll.ms": "200"}


def test_a_file_may_have_lists_booleans_and_tables(tmp_path: Path) -> None:
    """TOML values of every kind are taken; an unquoted dotted key means the same as a quoted one."""
    file = tmp_path / "logd.toml"
    file.write_text(
        'listeners = ["PLAINTEXT://127.0.0.1:0", "OTHER://[::1]:9"]\n'
        '"listener.security.protocol.map" = "OTHER:PLAINTEXT,PLAINTEXT:PLAINTEXT"\n'
        "auto.create.topics.enable = false\n"
        "[log.cleaner]\n"
        '"min.cleanable.ratio" = 0.25\n'
    )
    settings = load(file)
    assert settings.listeners == ("PLAINTEXT://127.0.0.1:0", "OTHER://[::1]:9")
    assert settings.auto_create_topics_enable is False
    assert settings.log_cleaner_min_cleanable_ratio == 0.25


def test_old_names_mean_the_new_ones() -> None:
    """broker.id and log.dir are still understood."""
    settings = load(sets={"broker.id": "7", "log.dir": "data"})
    assert (settings.node_id, settings.log_dirs) == (7, ("data",))


def test_the_finest_of_the_retention_settings_counts() -> None:
    """log.retention.ms is stronger than minutes, minutes than hours; -1 hours is for ever."""

    def kept_ms(*sets: str) -> int:
        return topic_defaults(load(sets=sets)).retention_ms

    assert kept_ms("log.retention.hours=2") == 7_200_000
    assert kept_ms("log.retention.hours=2", "log.retention.minutes=3") == 180_000
    assert kept_ms("log.retention.minutes=3", "log.retention.ms=4") == 4
    assert kept_ms("log.retention.hours=-1") == -1


@pytest.mark.parametrize(
    ("sets", "parts"),
    [
        (["num.partitions=x"], ["x", "num.partitions", "type INT", "--set"]),
        (["num.partitions=0"], ["0", "num.partitions", "at least 1"]),
        (["num.partitions=99999999999"], ["num.partitions", "type INT"]),
        (["num.partition=3"], ["num.partition", "--set", "did you mean num.partitions"]),
        (["nothing.like.it=3"], ["nothing.like.it", "docs/settings.md"]),
        (["num.partitions"], ["--set NAME=VALUE"]),
        (["log.flush.mode=never"], ["never", "log.flush.mode", "group, os"]),
        (["auto.create.topics.enable=maybe"], ["maybe", "true or false"]),
        (["log.dirs=a,,b"], ["a,,b", "log.dirs", "one path or several"]),
        (["default.replication.factor=3"], ["3", "default.replication.factor", "replication is not built yet"]),
        (["listeners=nonsense"], ["nonsense", "NAME://HOST:PORT"]),
        (["listeners=PLAINTEXT://h:99999"], ["99999", "65536"]),
        (["listeners=SSL://h:1"], ["SSL://h:1", "only PLAINTEXT"]),
        (["listeners=PLAINTEXT://a:1,PLAINTEXT://b:2"], ["PLAINTEXT", "twice"]),
        (["advertised.listeners=OTHER://h:1"], ["OTHER", "not a name in listeners"]),
        (["advertised.listeners=PLAINTEXT://0.0.0.0:1"], ["0.0.0.0", "host that clients use"]),
        (["log.cleaner.min.cleanable.ratio=nan"], ["nan", "log.cleaner.min.cleanable.ratio"]),
        (["retention.ms=5"], ["retention.ms", "a topic's", "log.retention.ms"]),
        (["transaction.two.phase.commit.enable=true"], ["Kafka's setting transaction.two", "two-phase", "remove it"]),
        (["transaction.abort.timed.out.transaction.cleanup.interval.ms=5"], ["aborted at once", "remove it"]),
        (["producer.id.expiration.check.interval.ms=5"], ["log.retention.check.interval.ms", "remove it"]),
        (["ssl.keystore.location=/x"], ["TLS is not built yet"]),
        (["controller.quota.window.num=11"], ["quotas are not built yet"]),
        (["group.coordinator.threads=4"], ["event loop"]),
        (["zookeeper.connect=h:2181"], ["there is no ZooKeeper"]),
    ],
)
def test_a_bad_setting_is_one_sentence_of_what_where_and_what_to_do(sets: list[str], parts: list[str]) -> None:
    """The message names the setting, its value, where it was given and the remedy, on one line."""
    with pytest.raises(BadSetting) as caught:
        load(sets=sets)
    assert "\n" not in str(caught.value)
    assert [part for part in parts if part not in str(caught.value)] == []


def test_all_that_is_unknown_is_told_at_once() -> None:
    """Who starts logd with a file of Kafka's does not take out one setting after the other."""
    with pytest.raises(BadSetting) as caught:
        load(sets=["num.io.threads=8", "num.partitons=1"], env={"LOGD_SSL_PROTOCOL": "TLSv1.3"})
    told = str(caught.value).splitlines()
    assert [line.split(" in ")[0].split()[-1] for line in told] == ["ssl.protocol", "num.io.threads", "num.partitons"]
    assert "did you mean num.partitions?" in told[2]


def test_what_logd_has_is_not_explained_away() -> None:
    """A setting is obeyed, or there is a reason why there is none; never both."""
    assert [name for name in DEFINITIONS if why_absent(name) is not None] == []


def test_a_file_in_kafkas_own_form(tmp_path: Path) -> None:
    """What ends with .properties is read as Java does: comments, colons, spaces, escapes, lines that go on."""
    file = tmp_path / "server.properties"
    file.write_text(
        "# a comment\n! another\n\nnode.id=3\n  num.partitions : 4\r\nlog.dirs /a\\\n   b,/c\n"
        "listeners=PLAINTEXT\\://h\\u006fst\\:9092\nbroker.rack=\n"
    )
    settings = load(file)
    assert (settings.node_id, settings.num_partitions, settings.log_dirs) == (3, 4, ("/ab", "/c"))
    assert (settings.listeners, settings.broker_rack) == (("PLAINTEXT://host:9092",), None)


def test_an_unknown_variable_is_refused_but_not_those_of_the_command_line_tool() -> None:
    """LOGD_ variables are settings, but for the few that logd-cli reads."""
    load(env={"LOGD_BOOTSTRAP": "h:1", "LOGD_CONTEXT": "x"})
    with pytest.raises(BadSetting, match=r"num.partitons in the environment.*num.partitions"):
        load(env={"LOGD_NUM_PARTITONS": "1"})


@pytest.mark.parametrize(
    ("text", "part"), [("a = ", "is not TOML"), ("a = 1979-05-27", "write a text"), ('"\xff"', "is not TOML")]
)
def test_a_file_that_is_not_settings_is_refused(tmp_path: Path, text: str, part: str) -> None:
    """Broken TOML and values that no setting has end the start with a sentence that names the file."""
    file = tmp_path / "logd.toml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(BadSetting, match=part) as caught:
        load(file)
    assert str(file) in str(caught.value)


def test_a_file_that_can_not_be_read_is_refused(tmp_path: Path) -> None:
    """A missing file is told with its path and the reason."""
    with pytest.raises(BadSetting, match=r"none.toml: No such file"):
        load(tmp_path / "none.toml")


def test_the_reference_page_is_current() -> None:
    """docs/settings.md is what tools/settings_reference.py writes."""
    assert settings_reference.PAGE.read_text(encoding="utf-8") == settings_reference.page(), (
        "run tools/settings_reference.py"
    )

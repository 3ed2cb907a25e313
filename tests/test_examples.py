"""The commented examples in config/ are true: the settings file loads, and shows the defaults."""

from __future__ import annotations

import ast
import configparser
import re
import tomllib

from logd.config import BadSetting, Settings, load, validate_topic_config
from logd.config.groups import GROUP_SETTINGS
from logd.config.settings import DEFINITIONS, attribute, shown
from logd.config.topics import SYNONYMS, TOPIC_DEFINITIONS
from logd.errors import Refused
from tests.sources import ROOT, package
from tools.settings_reference import page

SETTING = re.compile(r'^#("[a-z.]+" = .+)$', re.MULTILINE)


def test_settings_file_shows_the_defaults() -> None:
    """Every commented line of config/logd.toml is a setting of logd with its default value."""
    text = (ROOT / "config/logd.toml").read_text()
    lines = SETTING.findall(text)
    assert len(lines) > 10
    given = tomllib.loads("\n".join(lines))
    assert len(given) == len(lines)
    defaults = Settings()
    for name, value in given.items():
        told = str(value).lower() if isinstance(value, bool) else str(value)
        assert name in DEFINITIONS
        assert told == (shown(defaults, name) or "")


def test_settings_file_loads_as_it_is() -> None:
    """The settings file loads, and changes nothing."""
    assert load(ROOT / "config/logd.toml") == Settings()


def test_unit_names_options_that_exist() -> None:
    """The options in the systemd unit are those of logd serve."""
    from logd.cli.server import serve

    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(ROOT / "config/logd.service")
    used = set(re.findall(r"--[a-z-]+", unit["Service"]["ExecStart"]))
    known = {option for parameter in serve.params for option in parameter.opts}
    assert used
    assert used <= known


def test_settings_reference_is_current() -> None:
    """docs/settings.md is what the tables of settings say."""
    written = (ROOT / "docs/settings.md").read_text()
    assert written == page(), "run: python tools/settings_reference.py > docs/settings.md"


# Stored for the compaction that is to come, as the README says.
COMPACTION = {"delete.retention.ms", "min.cleanable.dirty.ratio", "min.compaction.lag.ms", "max.compaction.lag.ms"}
# Kafka bounds min.insync.replicas by the replicas there are, and one replica has nobody to hand over to.
WITHOUT_EFFECT = {"min.insync.replicas", "unclean.leader.election.enable"}
OTHER_VALUES = ("true", "4711", "1:2")


def only_its_default(name: str) -> bool:
    """True for a setting of a topic that is refused with every value but its default."""
    for text in OTHER_VALUES:
        try:
            validate_topic_config(name, text)
        except Refused:
            continue
        return False
    return True


def broker_takes_only_its_default(name: str) -> bool:
    """True for a setting of the broker that is refused with every value but its default."""
    for text in OTHER_VALUES:
        try:
            load(sets={name: text})
        except BadSetting:
            continue
        return False
    return True


def test_every_setting_is_read() -> None:
    """No setting, of the broker or of a topic, is accepted and then read by nobody."""
    read = {node.attr for source in package() for node in ast.walk(source.tree) if isinstance(node, ast.Attribute)}
    defaults_of_topics = {attribute(name) for synonyms in SYNONYMS.values() for name, _ in synonyms}
    of_groups = {
        attribute(broker) for name, one in GROUP_SETTINGS.items() for broker in (f"group.{name}", *one.limits(name))
    }
    unread = [name for name in DEFINITIONS if attribute(name) not in read | defaults_of_topics | of_groups]
    ignored = [name for name in unread if not broker_takes_only_its_default(name)]
    for name in TOPIC_DEFINITIONS.keys() - COMPACTION - WITHOUT_EFFECT:
        if attribute(name) not in read and not only_its_default(name):
            ignored.append(f"{name} of a topic")
    assert not ignored

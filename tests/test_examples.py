"""The commented examples in config/ are true: the settings file loads, and shows the defaults."""

from __future__ import annotations

import configparser
import re
import tomllib

from logd.config import Settings, load
from logd.config.settings import DEFINITIONS, shown
from tests.sources import ROOT

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

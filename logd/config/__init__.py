"""Every setting and limit of logd: what exists, what it means, what was given.

`settings` declares the broker's settings, `topics` those of a topic, `load` reads them from file, environment and
flags, `values` parses and checks. Imported by everything above; imports nothing of logd but the errors.
"""

from logd.config.load import BadSetting, load
from logd.config.settings import Settings, with_overrides
from logd.config.topics import TopicConfig, topic_config, validate_topic_config

__all__ = [
    "BadSetting",
    "Settings",
    "TopicConfig",
    "load",
    "topic_config",
    "validate_topic_config",
    "with_overrides",
]

"""Settings of topics and brokers as the server holds them: read and change.

A part of :class:`logd.client.admin.Admin`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from logd.client.calls import DESCRIBE_CONFIGS, INCREMENTAL_ALTER_CONFIGS
from logd.client.errors import check
from logd.client.routing import ANY_NODE, Router
from logd.wire.schemas.describe_configs import (
    DescribeConfigsRequest,
    DescribeConfigsResource,
    DescribeConfigsResourceResult,
    DescribeConfigsResponse,
)
from logd.wire.schemas.incremental_alter_configs import (
    AlterableConfig,
    AlterConfigsResource,
    IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
)

TOPIC, BROKER = 2, 4
SET, DELETE = 0, 1

SOURCES = {
    1: "topic",
    2: "broker",
    3: "cluster",
    4: "file",
    5: "default",
    6: "logger",
    7: "client metrics",
    8: "group",
}
"""Where a value comes from, by the number on the wire."""


class ConfigEntry(msgspec.Struct, frozen=True):
    """One setting; `value` is None when the server hides it. `source` is one of :data:`SOURCES`."""

    name: str
    value: str | None
    source: str
    read_only: bool
    sensitive: bool
    documentation: str


class Configs:
    """What an administrator does to settings."""

    def __init__(self, router: Router) -> None:
        self._router = router

    async def of_topic(self, topic: str, names: Iterable[str] | None = None) -> dict[str, ConfigEntry]:
        """The settings of a topic by name (None: all). :raises Refused: it does not exist."""
        return await self._describe(TOPIC, topic, names, ANY_NODE)

    async def of_broker(self, node: int, names: Iterable[str] | None = None) -> dict[str, ConfigEntry]:
        """The settings of a broker by name (None: all)."""
        await self._router.refresh([])
        return await self._describe(BROKER, str(node), names, node)

    async def _describe(
        self, kind: int, resource: str, names: Iterable[str] | None, node: int
    ) -> dict[str, ConfigEntry]:
        keys = None if names is None else list(names)
        wanted = DescribeConfigsResource(resource_type=kind, resource_name=resource, configuration_keys=keys)
        request = DescribeConfigsRequest(resources=[wanted])
        answer = await self._router.ask(DESCRIBE_CONFIGS, request, DescribeConfigsResponse, node=node)
        found: dict[str, ConfigEntry] = {}
        for result in answer.results:
            check(result.error_code, result.error_message, f"settings of {resource!r}")
            found |= {item.name: _entry(item) for item in result.configs}
        return dict(sorted(found.items()))

    async def alter_topic(
        self, topic: str, values: Mapping[str, str], unset: Iterable[str] = (), *, validate_only: bool = False
    ) -> None:
        """Set some settings of a topic and give others back to their default; the rest stays.

        :raises Refused: the topic does not exist, or a name or a value is wrong; then nothing was changed.
        """
        changes = [AlterableConfig(name=name, config_operation=SET, value=value) for name, value in values.items()]
        changes += [AlterableConfig(name=name, config_operation=DELETE, value=None) for name in unset]
        resource = AlterConfigsResource(resource_type=TOPIC, resource_name=topic, configs=changes)
        request = IncrementalAlterConfigsRequest(resources=[resource], validate_only=validate_only)
        answer = await self._router.ask(INCREMENTAL_ALTER_CONFIGS, request, IncrementalAlterConfigsResponse)
        for item in answer.responses:
            check(item.error_code, item.error_message, f"settings of topic {topic!r}")


def _entry(item: DescribeConfigsResourceResult) -> ConfigEntry:
    source = SOURCES.get(item.config_source, "unknown")
    return ConfigEntry(item.name, item.value, source, item.read_only, item.is_sensitive, item.documentation or "")

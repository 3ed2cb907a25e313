"""Settings of topics, brokers and groups as the server holds them: read, change, list who has any.

A part of :class:`logd.client.admin.Admin`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from logd.client.calls import DESCRIBE_CONFIGS, INCREMENTAL_ALTER_CONFIGS, LIST_CONFIG_RESOURCES
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
from logd.wire.schemas.list_config_resources import ListConfigResourcesRequest, ListConfigResourcesResponse

TOPIC, BROKER, CLIENT_METRICS, GROUP = 2, 4, 16, 32
SET, DELETE, APPEND, SUBTRACT = 0, 1, 2, 3

KINDS = {"topic": TOPIC, "broker": BROKER, "group": GROUP, "client-metrics": CLIENT_METRICS}
"""What can have settings, by the name that people use."""

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


class Resource(NamedTuple):
    """Something that has settings: `kind` is one of :data:`KINDS`; the broker named "" stands for all brokers."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}" if self.name else "all brokers"


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

    async def of(
        self, resource: Resource, names: Iterable[str] | None = None, *, documentation: bool = False
    ) -> dict[str, ConfigEntry]:
        """The settings of a resource by name (None: all of them). :raises Refused: it does not exist."""
        node = await self._node_of(resource)
        keys = None if names is None else list(names)
        kind = KINDS[resource.kind]
        wanted = DescribeConfigsResource(resource_type=kind, resource_name=resource.name, configuration_keys=keys)
        request = DescribeConfigsRequest(resources=[wanted], include_documentation=documentation)
        answer = await self._router.ask(DESCRIBE_CONFIGS, request, DescribeConfigsResponse, node=node)
        found: dict[str, ConfigEntry] = {}
        for result in answer.results:
            check(result.error_code, result.error_message, f"settings of {resource}")
            found |= {item.name: _entry(item) for item in result.configs}
        return dict(sorted(found.items()))

    async def of_topic(self, topic: str, names: Iterable[str] | None = None) -> dict[str, ConfigEntry]:
        """The settings of a topic by name (None: all). :raises Refused: it does not exist."""
        return await self.of(Resource("topic", topic), names)

    async def of_broker(self, node: int, names: Iterable[str] | None = None) -> dict[str, ConfigEntry]:
        """The settings of a broker by name (None: all)."""
        return await self.of(Resource("broker", str(node)), names)

    async def _node_of(self, resource: Resource) -> int:
        """A broker answers for itself only."""
        if resource.kind != "broker" or not resource.name.isdigit():
            return ANY_NODE
        await self._router.refresh([])
        return int(resource.name)

    async def alter(
        self,
        resource: Resource,
        values: Mapping[str, str],
        unset: Iterable[str] = (),
        *,
        validate_only: bool = False,
    ) -> None:
        """Set some settings of a resource and give others back to their default; the rest stays.

        :raises Refused: the resource does not exist, or a name or a value is wrong; then nothing was changed.
        """
        changes = [AlterableConfig(name=name, config_operation=SET, value=value) for name, value in values.items()]
        changes += [AlterableConfig(name=name, config_operation=DELETE, value=None) for name in unset]
        item = AlterConfigsResource(resource_type=KINDS[resource.kind], resource_name=resource.name, configs=changes)
        request = IncrementalAlterConfigsRequest(resources=[item], validate_only=validate_only)
        node = await self._node_of(resource)
        answer = await self._router.ask(INCREMENTAL_ALTER_CONFIGS, request, IncrementalAlterConfigsResponse, node=node)
        for response in answer.responses:
            check(response.error_code, response.error_message, f"settings of {resource}")

    async def alter_topic(
        self, topic: str, values: Mapping[str, str], unset: Iterable[str] = (), *, validate_only: bool = False
    ) -> None:
        """:meth:`alter` for a topic."""
        await self.alter(Resource("topic", topic), values, unset, validate_only=validate_only)

    async def resources(self, kinds: Iterable[str]) -> list[Resource]:
        """The resources of these kinds that have settings of their own (KIP-1142).

        :raises NotSupported: the server is older than Kafka 4.1.
        """
        names = {number: name for name, number in KINDS.items()}
        request = ListConfigResourcesRequest(resource_types=[KINDS[kind] for kind in kinds])
        answer = await self._router.ask(LIST_CONFIG_RESOURCES, request, ListConfigResourcesResponse)
        check(answer.error_code, None, "list of settings")
        return [
            Resource(names[item.resource_type], item.resource_name)
            for item in answer.config_resources
            if item.resource_type in names
        ]


def _entry(item: DescribeConfigsResourceResult) -> ConfigEntry:
    source = SOURCES.get(item.config_source, "unknown")
    return ConfigEntry(item.name, item.value, source, item.read_only, item.is_sensitive, item.documentation or "")

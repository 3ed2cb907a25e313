"""DescribeConfigs (v1-4), AlterConfigs (v0-2), IncrementalAlterConfigs (v0-1), ListConfigResources (v0-1).

Answers code for code as Apache Kafka 4.3.1 for topics, brokers, groups and client metrics. Settings of broker loggers
are refused with a sentence: logd has none, and accepts no value that it would not obey. The rules are `cluster.alter`'s
and those of `config.describe` and `config.groups`. Called through the registry.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import structs

from logd.apis.registry import Call, api
from logd.apis.turns import breathe
from logd.cluster.alter import Alteration, Operation, Resource, broker_id_of
from logd.cluster.controller import check_topic_name, unknown_topic
from logd.config.describe import Described, Source, describe_all_brokers, describe_broker
from logd.config.groups import describe_client_metrics, describe_group
from logd.errors import ErrorCode, Refused
from logd.wire.schemas import alter_configs as replacing
from logd.wire.schemas import incremental_alter_configs as incremental
from logd.wire.schemas.describe_configs import (
    DescribeConfigsRequest,
    DescribeConfigsResource,
    DescribeConfigsResourceResult,
    DescribeConfigsResponse,
    DescribeConfigsResult,
    DescribeConfigsSynonym,
)
from logd.wire.schemas.list_config_resources import (
    ConfigResource,
    ListConfigResourcesRequest,
    ListConfigResourcesResponse,
)

DESCRIBE_CONFIGS, ALTER_CONFIGS, INCREMENTAL_ALTER_CONFIGS, LIST_CONFIG_RESOURCES = 32, 33, 44, 74

REPEATS_MAX = 100
"""Resources that a request may name more than once: each is described as often, and takes 20 kB of the answer."""


# DescribeConfigs


@api(DESCRIBE_CONFIGS)
async def describe_configs(call: Call, request: DescribeConfigsRequest) -> DescribeConfigsResponse:
    """Tell settings, from the image alone. No keys, or null, means all keys."""
    answer = DescribeConfigsResponse()
    known = Resource.__members__.values()
    strange = next((one.resource_type for one in request.resources if one.resource_type not in known), None)
    repeats = len(request.resources) - len({(one.resource_type, one.resource_name) for one in request.resources})
    for number, resource in enumerate(request.resources):
        result = DescribeConfigsResult(0, "", resource.resource_type, resource.resource_name)
        try:
            if strange is not None:  # which spoils the whole request, as in Kafka
                raise _no_settings(str(strange))
            if repeats > REPEATS_MAX:
                raise Refused(ErrorCode.INVALID_REQUEST, f"{repeats} resources are repeated: name each of them once")
            described = _described(call, resource)
        except Refused as refused:
            result.error_code, result.error_message = refused.code, refused.message
        else:
            result.configs = [_told(item, request) for item in _picked(described, resource.configuration_keys)]
        answer.results.append(result)
        await breathe(number)
    return answer


def _picked(described: Sequence[Described], keys: Sequence[str] | None) -> Sequence[Described]:
    """Those asked for, each once and in the order of the request; clients take them by their place."""
    if not keys:
        return described
    by_name = {item.name: item for item in described}
    return [by_name[key] for key in dict.fromkeys(keys) if key in by_name]


def _described(call: Call, resource: DescribeConfigsResource) -> list[Described]:
    cluster, name = call.services.cluster, resource.resource_name
    if resource.resource_type == Resource.TOPIC:
        check_topic_name(name)
        topic = cluster.image.topics.get(name)
        if topic is None:
            raise unknown_topic(name)
        return cluster.describe_topic(topic.configs)
    if resource.resource_type == Resource.BROKER:
        if broker_id_of(name, cluster.static_settings.node_id) is None:
            return describe_all_brokers(cluster.layers())
        described = describe_broker(cluster.settings, cluster.layers())
        return described if cluster.settings.advertised_listeners else _advertised(call, described)
    own = cluster.image.resource_configs.get((resource.resource_type, name), {})
    if resource.resource_type == Resource.GROUP:
        if not name:
            raise Refused(ErrorCode.INVALID_REQUEST, "Group name must not be empty")
        return describe_group(own, cluster.settings, cluster.layers())
    if resource.resource_type == Resource.CLIENT_METRICS:
        if not name:
            raise Refused(ErrorCode.INVALID_REQUEST, "Client metrics subscription name must not be empty")
        return describe_client_metrics(own)
    raise _no_settings(Resource(resource.resource_type).name)


def _no_settings(kind: str) -> Refused:
    return Refused(
        ErrorCode.INVALID_REQUEST,
        f"logd has no settings of resource type {kind}; only those of TOPIC (2), BROKER (4), CLIENT_METRICS (16) and "
        "GROUP (32) can be described.",
    )


def _advertised(call: Call, described: list[Described]) -> list[Described]:
    """Tell the address that this client is told, where none was set: it is where the client connected to."""
    host, port = call.advertised(call.services.settings.node_id)
    text = f"{call.connection.listener}://{f'[{host}]' if ':' in host else host}:{port}"
    return [
        structs.replace(item, value=text, source=Source.STATIC) if item.name == "advertised.listeners" else item
        for item in described
    ]


def _told(item: Described, request: DescribeConfigsRequest) -> DescribeConfigsResourceResult:
    synonyms = item.synonyms if request.include_synonyms else ()
    return DescribeConfigsResourceResult(
        item.name,
        item.value,
        item.read_only,
        item.source,
        item.definition.sensitive,
        [DescribeConfigsSynonym(synonym.name, synonym.value, synonym.source) for synonym in synonyms],
        item.definition.kind,
        item.definition.doc if request.include_documentation else None,
    )


# AlterConfigs


def _alter_refused(
    request: replacing.AlterConfigsRequest, version: int, refused: Refused
) -> replacing.AlterConfigsResponse:
    return _replaced(request.resources, [refused] * len(request.resources))


@api(ALTER_CONFIGS, refuse=_alter_refused)
async def alter_configs(call: Call, request: replacing.AlterConfigsRequest) -> replacing.AlterConfigsResponse:
    """Give resources these settings and no others. Each resource changes whole or not at all."""
    wanted = [
        Alteration(
            resource.resource_type,
            resource.resource_name,
            [(config.name, Operation.SET, config.value) for config in resource.configs],
            replace=True,
        )
        for resource in request.resources
    ]
    results = await call.services.cluster.alter_configs(wanted, request.validate_only)
    return _replaced(request.resources, results)


def _replaced(
    resources: Sequence[replacing.AlterConfigsResource], results: Sequence[Refused | None]
) -> replacing.AlterConfigsResponse:
    answers = [
        replacing.AlterConfigsResourceResponse(
            0 if result is None else result.code,
            None if result is None else result.message,
            resource.resource_type,
            resource.resource_name,
        )
        for resource, result in zip(resources, results, strict=True)
    ]
    return replacing.AlterConfigsResponse(0, answers)


# IncrementalAlterConfigs


def _incremental_refused(
    request: incremental.IncrementalAlterConfigsRequest, version: int, refused: Refused
) -> incremental.IncrementalAlterConfigsResponse:
    return _altered(request.resources, [refused] * len(request.resources))


@api(INCREMENTAL_ALTER_CONFIGS, refuse=_incremental_refused)
async def incremental_alter_configs(
    call: Call, request: incremental.IncrementalAlterConfigsRequest
) -> incremental.IncrementalAlterConfigsResponse:
    """Set, delete, append to or subtract from single settings. Each resource changes whole or not at all."""
    wanted = [
        Alteration(
            resource.resource_type,
            resource.resource_name,
            [(config.name, config.config_operation, config.value) for config in resource.configs],
        )
        for resource in request.resources
    ]
    results = await call.services.cluster.alter_configs(wanted, request.validate_only)
    return _altered(request.resources, results)


def _altered(
    resources: Sequence[incremental.AlterConfigsResource], results: Sequence[Refused | None]
) -> incremental.IncrementalAlterConfigsResponse:
    answers = [
        incremental.AlterConfigsResourceResponse(
            0 if result is None else result.code,
            None if result is None else result.message,
            resource.resource_type,
            resource.resource_name,
        )
        for resource, result in zip(resources, results, strict=True)
    ]
    return incremental.IncrementalAlterConfigsResponse(0, answers)


# ListConfigResources


@api(LIST_CONFIG_RESOURCES)
def list_config_resources(call: Call, request: ListConfigResourcesRequest) -> ListConfigResourcesResponse:
    """Name what has settings; v0 asks for client metrics alone (KIP-714, KIP-1142)."""
    known = tuple(Resource.__members__.values())
    if any(kind not in known for kind in request.resource_types):
        return ListConfigResourcesResponse(0, ErrorCode.UNSUPPORTED_VERSION)
    kinds = (request.resource_types or known) if call.version > 0 else (Resource.CLIENT_METRICS,)
    image = call.services.cluster.image
    found = [ConfigResource(name, kind) for kind, name in image.resource_configs if kind in kinds]
    found += [ConfigResource(str(broker), Resource.BROKER) for broker in image.brokers if Resource.BROKER in kinds]
    if Resource.TOPIC in kinds:
        found += [ConfigResource(name, Resource.TOPIC) for name in image.topics]
    return ListConfigResourcesResponse(0, 0, found)

"""GetTelemetrySubscriptions (71), PushTelemetry (72), and ClientMetrics (30003), which shows what was pushed.

Clients push their own metrics when a subscription (resource CLIENT_METRICS, ``kafka-client-metrics``) asks for them
(KIP-714). What they say of themselves is not believed further than it is shown. Called through the registry.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Mapping

import trio

from logd.apis.client_metrics import CODECS, Instance
from logd.apis.registry import Call, api
from logd.errors import DecodeError, ErrorCode, Refused
from logd.wire.compression import decompress
from logd.wire.message import ZERO_UUID
from logd.wire.otlp import Point, read_metrics
from logd.wire.schemas.client_metrics import (
    ClientMetricsRequest,
    ClientMetricsResponse,
    MeasuredClient,
    MeasuredMetric,
    MetricLabel,
)
from logd.wire.schemas.get_telemetry_subscriptions import (
    GetTelemetrySubscriptionsRequest,
    GetTelemetrySubscriptionsResponse,
)
from logd.wire.schemas.push_telemetry import PushTelemetryRequest, PushTelemetryResponse

GET_SUBSCRIPTIONS, PUSH, CLIENT_METRICS = 71, 72, 30003

OPENED_BYTES_MAX = 4 << 20
"""Of one push, decompressed."""


def _about(call: Call, instance_id: bytes) -> Mapping[str, str]:
    host, _, port = call.connection.peer.rpartition(":")
    return {
        "client_id": call.client_id,
        "client_instance_id": base64.urlsafe_b64encode(instance_id).decode().rstrip("="),
        "client_software_name": call.connection.client_name,
        "client_software_version": call.connection.client_version,
        "client_source_address": host.strip("[]"),
        "client_source_port": port,
    }


def _not_subscribed(
    request: GetTelemetrySubscriptionsRequest, version: int, refused: Refused
) -> GetTelemetrySubscriptionsResponse:
    return GetTelemetrySubscriptionsResponse(0, int(refused.code))


@api(GET_SUBSCRIPTIONS, refuse=_not_subscribed)
def get_telemetry_subscriptions(
    call: Call, request: GetTelemetrySubscriptionsRequest
) -> GetTelemetrySubscriptionsResponse:
    """Version 0. A client without an id is given one."""
    services = call.services
    instance_id = request.client_instance_id
    if instance_id == ZERO_UUID:
        instance_id = uuid.uuid4().bytes
    seen = services.cluster.image.resource_configs
    about = _about(call, instance_id)
    instance = services.client_metrics.subscribe(instance_id, about, seen, services.clock.now_ms())
    return GetTelemetrySubscriptionsResponse(
        0,
        0,
        instance_id,
        instance.subscription_id,
        list(CODECS),
        instance.interval_ms,
        services.settings.telemetry_max_bytes,
        True,
        instance.metrics,
    )


def _not_pushed(request: PushTelemetryRequest, version: int, refused: Refused) -> PushTelemetryResponse:
    return PushTelemetryResponse(0, int(refused.code))


@api(PUSH, refuse=_not_pushed)
def push_telemetry(call: Call, request: PushTelemetryRequest) -> PushTelemetryResponse:
    """Version 0."""
    if request.client_instance_id == ZERO_UUID:
        raise Refused(ErrorCode.INVALID_REQUEST, "the client instance id is zero: ask for the subscriptions first")
    services = call.services
    about = _about(call, request.client_instance_id)
    seen, limit = services.cluster.image.resource_configs, services.settings.telemetry_max_bytes
    services.client_metrics.push(request, about, seen, services.clock.now_ms(), limit)
    return PushTelemetryResponse()


def _not_shown(request: ClientMetricsRequest, version: int, refused: Refused) -> ClientMetricsResponse:
    return ClientMetricsResponse(0, int(refused.code), refused.message)


@api(CLIENT_METRICS, refuse=_not_shown)
async def client_metrics(call: Call, request: ClientMetricsRequest) -> ClientMetricsResponse:
    """Version 0: the last push of every client, or of one."""
    answer = ClientMetricsResponse()
    for instance in call.services.client_metrics.pushed(call.services.clock.now_ms()):
        if request.client_instance_id in (ZERO_UUID, instance.instance_id):
            answer.clients.append(_measured(instance, request.prefix))
            await trio.lowlevel.checkpoint()
    return answer


def _measured(instance: Instance, prefix: str) -> MeasuredClient:
    about = instance.about
    return MeasuredClient(
        instance.instance_id,
        about["client_id"],
        about["client_software_name"],
        about["client_software_version"],
        f"{about['client_source_address']}:{about['client_source_port']}",
        instance.pushed_ms,
        instance.pushes,
        instance.terminating,
        [_metric(point) for point in _opened(instance) if point.name.startswith(prefix)],
    )


def _metric(point: Point) -> MeasuredMetric:
    return MeasuredMetric(point.name, [MetricLabel(*label) for label in point.labels], point.value)


def _opened(instance: Instance) -> list[Point]:
    """What a client pushed; nothing, when it is not what it should be."""
    try:
        data = decompress(instance.codec, instance.data, OPENED_BYTES_MAX) if instance.codec else instance.data
        return read_metrics(memoryview(data))
    except DecodeError:
        return []

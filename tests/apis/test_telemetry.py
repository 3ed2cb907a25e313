"""Client metrics (KIP-714) over a whole broker: subscriptions, pushes and their limits, and what is shown of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from logd.errors import ErrorCode
from logd.testing import Broker
from logd.wire.compression import compress
from logd.wire.schemas.api_versions import ApiVersionsRequest
from logd.wire.schemas.client_metrics import ClientMetricsRequest
from logd.wire.schemas.get_telemetry_subscriptions import GetTelemetrySubscriptionsRequest
from logd.wire.schemas.incremental_alter_configs import (
    AlterableConfig,
    AlterConfigsResource,
    IncrementalAlterConfigsRequest,
)
from logd.wire.schemas.push_telemetry import PushTelemetryRequest
from tests.raw import Peer
from tests.wire.test_otlp import GAUGE, SUM
from tests.wire.test_otlp import push as pushed

GZIP, ZSTD = 1, 4


@pytest.fixture
def peer(logd_broker: Broker) -> Iterator[Peer]:
    with Peer(logd_broker.bootstrap) as found:
        yield found
        subscribe(found, **{"interval.ms": None, "metrics": None, "match": None})


def subscribe(peer: Peer, **configs: str | None) -> None:
    wanted = [AlterableConfig(name, 0 if value is not None else 1, value) for name, value in configs.items()]
    answer = peer.ask(IncrementalAlterConfigsRequest([AlterConfigsResource(16, "m", wanted)]), 1)
    assert answer.responses[0].error_code == 0


def get(peer: Peer, instance_id: bytes = bytes(16)) -> Any:
    return peer.ask(GetTelemetrySubscriptionsRequest(instance_id), 0)


def push(peer: Peer, told: Any, data: bytes, codec: int = 0, **changed: Any) -> int:
    request = PushTelemetryRequest(told.client_instance_id, told.subscription_id, False, codec, data)
    for name, value in changed.items():
        setattr(request, name, value)
    code: int = peer.ask(request, 0).error_code
    return code


def shown(peer: Peer, prefix: str = "") -> list[tuple[str, float]]:
    answer = peer.ask(ClientMetricsRequest(bytes(16), prefix), 0)
    return [(metric.name, metric.value) for client in answer.clients for metric in client.metrics]


def test_without_subscriptions(peer: Peer) -> None:
    """A client gets an id and an interval, and is to push nothing; asked again too soon it is told so."""
    told = get(peer)
    assert (told.error_code, told.requested_metrics, told.push_interval_ms) == (0, [], 300_000)
    assert told.client_instance_id != bytes(16)
    assert (told.accepted_compression_types, told.telemetry_max_bytes) == ([4, 3, 1, 2], 1_048_576)
    assert get(peer, told.client_instance_id).error_code == ErrorCode.THROTTLING_QUOTA_EXCEEDED


@pytest.mark.parametrize(
    ("match", "metrics"),
    [
        ("client_id=ra.", ["org."]),
        ("client_id=r", []),
        ("client_id=ra.,client_source_address=10[.].*", []),
        ("client_source_address=[^:]*", ["org."]),
        ("client_id=(.*a){20}(.*w){20}", []),
    ],
)
def test_who_is_meant(peer: Peer, match: str, metrics: list[str]) -> None:
    """Every pattern must fit the whole of what it is asked of; a new subscription is heard of at once."""
    told = get(peer)
    subscribe(peer, match=match, metrics="org.", **{"interval.ms": "1000"})
    again = get(peer, told.client_instance_id)
    assert (again.error_code, again.requested_metrics) == (0, metrics)
    assert again.push_interval_ms == (1000 if metrics else 300_000)


@pytest.mark.parametrize("codec", [0, GZIP, ZSTD])
def test_what_is_pushed_is_shown(peer: Peer, codec: int) -> None:
    """The last push of a client, its numbers by name and label."""
    subscribe(peer, metrics="*")
    told = get(peer)
    assert told.requested_metrics == ["*"]
    data = pushed(GAUGE, SUM)
    assert push(peer, told, bytes(compress(codec, data)) if codec else data, codec) == 0
    assert ("org.rtt", 2.5) in shown(peer)
    assert ("org.sent", -7.0) not in shown(peer, "org.r")
    assert push(peer, told, data) == ErrorCode.THROTTLING_QUOTA_EXCEEDED
    assert push(peer, told, data, terminating=True) == 0
    assert push(peer, told, data) == ErrorCode.INVALID_REQUEST


def test_told_only_while_somebody_subscribes(peer: Peer) -> None:
    """Without a subscription clients are not to ask at all: every one of them would."""

    def told() -> set[int]:
        return {key.api_key for key in peer.ask(ApiVersionsRequest("raw", "1"), 4).api_keys} & {71, 72}

    assert told() == set()
    subscribe(peer, metrics="*")
    assert told() == {71, 72}


def test_bad_pushes(peer: Peer) -> None:
    """Each with Kafka's code; what is no metrics at all is shown as nothing."""
    assert push(peer, get(peer), b"", client_instance_id=bytes(16)) == ErrorCode.INVALID_REQUEST
    told = get(peer)
    assert push(peer, told, b"", subscription_id=told.subscription_id ^ 1) == ErrorCode.UNKNOWN_SUBSCRIPTION_ID
    assert push(peer, get(peer), b"", 9) == ErrorCode.UNSUPPORTED_COMPRESSION_TYPE
    assert push(peer, get(peer), bytes(1_048_577)) == ErrorCode.TELEMETRY_TOO_LARGE
    before = shown(peer)
    assert push(peer, get(peer), b"\xff\xff\xff", ZSTD) == 0
    assert shown(peer) == before

"""The client for trio: produce, consume, administer, against logd and against Apache Kafka.

Public: the names in ``__all__``; each is imported when it is first used, so that ``import logd.client`` costs little.
Used inside logd too. Speaks the Kafka protocol through ``logd.wire`` alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from logd.client.accumulator import Acknowledged, Delivery
    from logd.client.admin import Admin, ClusterInfo
    from logd.client.consumer import Consumer
    from logd.client.decoding import Received
    from logd.client.errors import (
        BadAnswer,
        CannotConnect,
        ClientError,
        CommitFailed,
        ConnectionLost,
        NotSupported,
        ProducerFenced,
        TimedOut,
    )
    from logd.client.metadata import TopicPartition
    from logd.client.producer import Producer
    from logd.client.routing import Router
    from logd.client.settings import ClientSettings, ConsumerSettings, GroupSettings, ProducerSettings
    from logd.client.topics import NewTopic
    from logd.client.transactions import Transaction

_OWNERS = {
    "Acknowledged": "accumulator",
    "Admin": "admin",
    "BadAnswer": "errors",
    "CannotConnect": "errors",
    "ClientError": "errors",
    "ClientSettings": "settings",
    "ClusterInfo": "admin",
    "CommitFailed": "errors",
    "ConnectionLost": "errors",
    "Consumer": "consumer",
    "ConsumerSettings": "settings",
    "Delivery": "accumulator",
    "GroupSettings": "settings",
    "NewTopic": "topics",
    "NotSupported": "errors",
    "Producer": "producer",
    "ProducerFenced": "errors",
    "ProducerSettings": "settings",
    "Received": "decoding",
    "Router": "routing",
    "TimedOut": "errors",
    "TopicPartition": "metadata",
    "Transaction": "transactions",
}

__all__ = [
    "Acknowledged",
    "Admin",
    "BadAnswer",
    "CannotConnect",
    "ClientError",
    "ClientSettings",
    "ClusterInfo",
    "CommitFailed",
    "ConnectionLost",
    "Consumer",
    "ConsumerSettings",
    "Delivery",
    "GroupSettings",
    "NewTopic",
    "NotSupported",
    "Producer",
    "ProducerFenced",
    "ProducerSettings",
    "Received",
    "Router",
    "TimedOut",
    "TopicPartition",
    "Transaction",
]


def __getattr__(name: str) -> Any:
    if name not in _OWNERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_OWNERS[name]}"), name)

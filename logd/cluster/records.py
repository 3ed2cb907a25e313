"""How the image is written down: keys and JSON values of the metadata store, both ways.

One key for each topic, broker and set of dynamic settings, so that a change writes only what it touches and two
writers of one thing meet on its key. Used by `cluster` alone. PURE.

    format  cluster  controller  producer-ids  features  brokers/<id>  configs/brokers/<id or empty>  topics/<name>
    configs/resources/<type>/<name>
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from logd.cluster.image import Broker, Changes, Image, Topic

FORMAT = 1
FORMAT_KEY = "format"
_CLUSTER = "cluster"
_CONTROLLER = "controller"
_PRODUCER_IDS = "producer-ids"
_FEATURES = "features"
_BROKERS = "brokers/"
_BROKER_CONFIGS = "configs/brokers/"
_RESOURCE_CONFIGS = "configs/resources/"
_TOPICS = "topics/"

_encode = msgspec.json.Encoder().encode
_topic = msgspec.json.Decoder(Topic).decode
_broker = msgspec.json.Decoder(Broker).decode
_configs = msgspec.json.Decoder(dict[str, str]).decode
_levels = msgspec.json.Decoder(dict[str, int]).decode
_number = msgspec.json.Decoder(int).decode
_text = msgspec.json.Decoder(str).decode


class BadRecord(ValueError):
    """A stored value that this version of logd can't read."""


def puts(changes: Changes) -> dict[str, bytes]:
    """What `changes` write, by key."""
    found: dict[str, bytes] = {_TOPICS + topic.name: _encode(topic) for topic in changes.topics}
    for broker in changes.brokers:
        found[f"{_BROKERS}{broker.id}"] = _encode(broker)
    for broker_id, configs in changes.broker_configs.items():
        found[_BROKER_CONFIGS + ("" if broker_id is None else str(broker_id))] = _encode(configs)
    for (kind, name), configs in changes.resource_configs.items():
        if configs:
            found[f"{_RESOURCE_CONFIGS}{kind}/{name}"] = _encode(configs)
    for key, value in (
        (_CLUSTER, changes.cluster_id),
        (_CONTROLLER, changes.controller_id),
        (_PRODUCER_IDS, changes.producer_ids_next),
        (_FEATURES, changes.features),
    ):
        if value is not None:
            found[key] = _encode(value)
    return found


def deletes(changes: Changes) -> list[str]:
    """The keys that `changes` remove."""
    gone = [key for key, configs in changes.resource_configs.items() if not configs]
    return [
        *(_TOPICS + name for name in changes.deleted),
        *(f"{_RESOURCE_CONFIGS}{kind}/{name}" for kind, name in gone),
    ]


def image_of(entries: Mapping[str, bytes], version: int) -> Image:
    """The image that `entries` (all of the store) describe; raises BadRecord."""
    topics: list[Topic] = []
    brokers: list[Broker] = []
    configs: dict[int | None, Mapping[str, str]] = {}
    resources: dict[tuple[int, str], Mapping[str, str]] = {}
    single: dict[str, bytes] = {}
    for key, value in entries.items():
        try:
            if key.startswith(_TOPICS):
                topics.append(_topic(value))
            elif key.startswith(_BROKERS):
                brokers.append(_broker(value))
            elif key.startswith(_BROKER_CONFIGS):
                broker_id = key.removeprefix(_BROKER_CONFIGS)
                configs[int(broker_id) if broker_id else None] = _configs(value)
            elif key.startswith(_RESOURCE_CONFIGS):
                kind, _, name = key.removeprefix(_RESOURCE_CONFIGS).partition("/")
                resources[int(kind), name] = _configs(value)
            else:
                single[key] = value
        except (msgspec.DecodeError, ValueError) as error:
            raise BadRecord(f"the value of {key} can't be read: {error}") from None
    changes = Changes(
        topics=tuple(topics),
        brokers=tuple(brokers),
        broker_configs=configs,
        resource_configs=resources,
        cluster_id=_text(single[_CLUSTER]) if _CLUSTER in single else None,
        controller_id=_number(single[_CONTROLLER]) if _CONTROLLER in single else None,
        producer_ids_next=_number(single[_PRODUCER_IDS]) if _PRODUCER_IDS in single else None,
        features=_levels(single[_FEATURES]) if _FEATURES in single else None,
    )
    return Image().apply(changes, version)

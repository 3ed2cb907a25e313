"""Which clients are to push which metrics, and what they pushed last (KIP-714).

A plain object that the telemetry APIs ask. Subscriptions are settings of the image; a client's share of them is worked
out when it first asks, and again when they have changed. What is pushed is kept as it came, compressed, the last push
of each client, within limits of number and bytes; it is opened when somebody wants to see it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from zlib import crc32

from logd.config.groups import INTERVAL_MS_DEFAULT, patterns
from logd.errors import ErrorCode, Refused
from logd.wire.schemas.push_telemetry import PushTelemetryRequest

CLIENTS_MAX = 10_000
KEPT_BYTES_MAX = 16 << 20
FORGOTTEN_AFTER_INTERVALS = 3
CODECS = (4, 3, 1, 2)
"""What a push may be compressed with: zstd, lz4, gzip, snappy, in order of preference."""
ALL = "*"

Resources = Mapping[tuple[int, str], Mapping[str, str]]
CLIENT_METRICS = 16


class Instance:
    """One client."""

    __slots__ = (
        "about",
        "asked_ms",
        "codec",
        "data",
        "error",
        "instance_id",
        "interval_ms",
        "metrics",
        "pushed_ms",
        "pushes",
        "seen",
        "subscription_id",
        "terminating",
    )

    def __init__(self, instance_id: bytes, about: Mapping[str, str], seen: Resources) -> None:
        self.instance_id = instance_id
        self.about = about
        self.pushes = 0
        self.data = b""
        self.codec = 0
        self.terminating = False
        self.renew(seen)

    def renew(self, seen: Resources) -> None:
        """Work its share of the subscriptions out."""
        self.seen = seen
        self.asked_ms = self.pushed_ms = 0
        self.error = ErrorCode.NONE
        metrics: set[str] = set()
        self.interval_ms = INTERVAL_MS_DEFAULT
        for (kind, _), configs in seen.items():
            if kind == CLIENT_METRICS and matches(configs.get("match", ""), self.about):
                metrics.update(_items(configs.get("metrics", "")))
                self.interval_ms = min(self.interval_ms, int(configs.get("interval.ms", INTERVAL_MS_DEFAULT)))
        self.metrics = [ALL] if ALL in metrics else sorted(metrics)
        told = ",".join(self.metrics) + str(self.interval_ms)
        number = crc32(told.encode()) ^ int.from_bytes(self.instance_id[:4], "big")
        self.subscription_id = number - (1 << 32) if number >= 1 << 31 else number


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def matches(match: str, about: Mapping[str, str]) -> bool:
    """Whether a client is meant: every pattern fits the whole of what it is asked of."""
    try:
        wanted = patterns(tuple(_items(match)))
        return all(pattern.resolve((about.get(name, ""),)) for name, pattern in wanted.items())
    except Refused:
        return False


class ClientMetrics:
    """All clients that asked or pushed of late, the last ones at the end."""

    def __init__(self) -> None:
        self.instances: OrderedDict[bytes, Instance] = OrderedDict()
        self.kept_bytes = 0

    def subscribe(self, instance_id: bytes, about: Mapping[str, str], seen: Resources, now_ms: int) -> Instance:
        """What a client is to push.

        :raises Refused: THROTTLING_QUOTA_EXCEEDED, when it asks again too soon.
        """
        instance = self._instance(instance_id, about, seen)
        soon = now_ms - max(instance.asked_ms, instance.pushed_ms) < instance.interval_ms
        if soon and instance.error not in (ErrorCode.UNKNOWN_SUBSCRIPTION_ID, ErrorCode.UNSUPPORTED_COMPRESSION_TYPE):
            raise _too_soon(instance)
        instance.asked_ms, instance.error = now_ms, ErrorCode.NONE
        return instance

    def push(
        self, request: PushTelemetryRequest, about: Mapping[str, str], seen: Resources, now_ms: int, bytes_max: int
    ) -> None:
        """Take what a client pushed.

        :raises Refused: INVALID_REQUEST, THROTTLING_QUOTA_EXCEEDED, UNKNOWN_SUBSCRIPTION_ID,
            UNSUPPORTED_COMPRESSION_TYPE, TELEMETRY_TOO_LARGE.
        """
        instance = self._instance(request.client_instance_id, about, seen)
        try:
            self._check(instance, request, now_ms, bytes_max)
        except Refused as refused:
            instance.error = refused.code
            raise
        finally:
            instance.terminating = request.terminating
        self._keep(instance, request.metrics, request.compression_type)
        instance.pushes += 1
        instance.error = ErrorCode.NONE

    def _check(self, instance: Instance, request: PushTelemetryRequest, now_ms: int, bytes_max: int) -> None:
        if instance.terminating:
            raise Refused(ErrorCode.INVALID_REQUEST, "the client said with its last push that it ends")
        first = instance.asked_ms > instance.pushed_ms
        if not first and now_ms - instance.pushed_ms < instance.interval_ms and not request.terminating:
            raise _too_soon(instance)
        instance.pushed_ms = now_ms
        if request.subscription_id != instance.subscription_id:
            raise Refused(
                ErrorCode.UNKNOWN_SUBSCRIPTION_ID,
                f"subscription {request.subscription_id} is not the client's {instance.subscription_id}: ask again",
            )
        if request.compression_type not in (0, *CODECS):
            raise Refused(
                ErrorCode.UNSUPPORTED_COMPRESSION_TYPE,
                f"compression {request.compression_type} is not known: 0 to 4 are",
            )
        if len(request.metrics) > bytes_max:
            raise Refused(
                ErrorCode.TELEMETRY_TOO_LARGE,
                f"{len(request.metrics)} bytes of metrics: at most {bytes_max} (telemetry.max.bytes)",
            )

    def _keep(self, instance: Instance, data: bytes, codec: int) -> None:
        self.kept_bytes += len(data) - len(instance.data)
        instance.data, instance.codec = data, codec
        for other in self.instances.values():
            if self.kept_bytes <= KEPT_BYTES_MAX:
                return
            self.kept_bytes -= len(other.data)
            other.data = b""

    def _instance(self, instance_id: bytes, about: Mapping[str, str], seen: Resources) -> Instance:
        instance = self.instances.get(instance_id)
        if instance is None:
            instance = self.instances[instance_id] = Instance(instance_id, about, seen)
            if len(self.instances) > CLIENTS_MAX:
                _, gone = self.instances.popitem(last=False)
                self.kept_bytes -= len(gone.data)
        elif instance.seen is not seen:
            instance.renew(seen)
        self.instances.move_to_end(instance_id)
        return instance

    def pushed(self, now_ms: int) -> list[Instance]:
        """Clients whose last push is not too old."""
        return [
            instance
            for instance in self.instances.values()
            if instance.data and now_ms - instance.pushed_ms <= FORGOTTEN_AFTER_INTERVALS * instance.interval_ms
        ]


def _too_soon(instance: Instance) -> Refused:
    return Refused(
        ErrorCode.THROTTLING_QUOTA_EXCEEDED, f"the client is to ask and push every {instance.interval_ms} ms at most"
    )

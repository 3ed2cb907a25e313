"""ApiVersions (18): which requests, in which versions, and which features (KIP-35, KIP-511, KIP-584).

The list is what is registered, but for logd's own requests, and nothing else. A version that is too new is answered
in version 0 with UNSUPPORTED_VERSION and the range that is served, so that the client can try again.
"""

from __future__ import annotations

import re

from logd.apis.registry import Call, api, served
from logd.cluster.alter import Resource
from logd.errors import ErrorCode
from logd.wire.schemas import OWN_KEYS_FROM
from logd.wire.schemas.api_versions import (
    ApiVersion,
    ApiVersionsRequest,
    ApiVersionsResponse,
    FinalizedFeatureKey,
    SupportedFeatureKey,
)

API_VERSIONS = 18

FEATURES = {"group.version": (0, 1), "logd.version": (1, 1), "metadata.version": (7, 30), "transaction.version": (0, 2)}
"""Feature levels served here, lowest and highest; what is not served is not named.

`logd.version` says that the requests which only logd has are served. Its level is finalized like the others: clients
take a supported level that is not for one that an operator has yet to turn on.
"""

TELEMETRY = (71, 72)
"""GetTelemetrySubscriptions and PushTelemetry: told only while somebody subscribes. As soon as they are, every client
asks, and librdkafka says so on stderr; Kafka names them only when it has a plugin for them."""

SOFTWARE_NAME = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?")


@api(API_VERSIONS)
def api_versions(call: Call, request: ApiVersionsRequest) -> ApiVersionsResponse:
    """Versions 0-4. From 3 the client tells its name and version, which must look like ones (KIP-511)."""
    call.connection.client_id = call.client_id
    if call.version >= 3:
        for text in (request.client_software_name, request.client_software_version):
            if SOFTWARE_NAME.fullmatch(text) is None:
                return ApiVersionsResponse(error_code=ErrorCode.INVALID_REQUEST)
        call.connection.client_name = request.client_software_name
        call.connection.client_version = request.client_software_version
    image = call.services.cluster.image
    levels = {name: image.features.get(name, high) for name, (_, high) in FEATURES.items()}
    hidden = () if _has_subscriptions(call) else TELEMETRY
    shown = {name: span for name, span in FEATURES.items() if call.version >= 4 or span[0] > 0}
    return ApiVersionsResponse(
        api_keys=[
            ApiVersion(known.key, *known.advertised)
            for known in served()
            if known.key < OWN_KEYS_FROM and known.key not in hidden
        ],
        supported_features=[SupportedFeatureKey(name, low, high) for name, (low, high) in shown.items()],
        finalized_features_epoch=image.version,
        finalized_features=[FinalizedFeatureKey(name, level, level) for name, level in levels.items() if level],
    )


def _has_subscriptions(call: Call) -> bool:
    return any(kind == Resource.CLIENT_METRICS for kind, _ in call.services.cluster.image.resource_configs)


def unsupported_version() -> ApiVersionsResponse:
    """The version 0 answer to an ApiVersions request that is too new."""
    known = [ApiVersion(found.key, *found.advertised) for found in served() if found.key == API_VERSIONS]
    return ApiVersionsResponse(error_code=ErrorCode.UNSUPPORTED_VERSION, api_keys=known)

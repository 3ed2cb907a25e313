"""One Kafka request in, one answer out, grouped by noun.

Importing this package registers every handler; :mod:`logd.apis.registry` holds the table that ApiVersions is derived
from. A handler is given a :class:`~logd.apis.registry.Call` and a decoded request and owns no state.
"""

from logd.apis import configs, fetch, groups, logs, metadata, offsets, produce, producers, topics, versions

__all__ = ["configs", "fetch", "groups", "logs", "metadata", "offsets", "produce", "producers", "topics", "versions"]

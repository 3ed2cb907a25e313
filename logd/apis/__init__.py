"""One Kafka request in, one answer out, grouped by noun.

Importing :func:`register_all` and calling it registers every handler; :mod:`logd.apis.registry` holds the table that
ApiVersions is derived from. A handler is given a :class:`~logd.apis.registry.Call` and a decoded request and owns no
state.
"""

from importlib import import_module

MODULES = (
    "configs",
    "consumer_groups",
    "fetch",
    "group_offsets",
    "groups",
    "jobs",
    "logs",
    "markers",
    "metadata",
    "nodes",
    "offsets",
    "own_groups",
    "plain_commit",
    "plain_produce",
    "produce",
    "producers",
    "replicas",
    "telemetry",
    "topics",
    "transaction_offsets",
    "transactions",
    "versions",
    "why",
)


def register_all() -> None:
    """Import every module that has handlers."""
    for name in MODULES:
        import_module(f"{__name__}.{name}")

"""``logd-cli cluster``: info."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from logd.cli.options import Settings, common_options
from logd.cli.output import Thing, show_things
from logd.cli.session import with_admin

if TYPE_CHECKING:
    from logd.client import Admin


@click.group()
def cluster() -> None:
    """Show the cluster."""


@cluster.command("info")
@common_options()
@click.pass_obj
def info(settings: Settings) -> None:
    """Show brokers, controller, features, and how much there is.

    In a pipe: one line for each broker, with id, host, port, rack, whether it is the controller, partitions led.
    """
    fields = with_admin(settings, _gathered)
    columns = ("broker", "host", "port", "rack", "controller", "leads")
    rows = [tuple(item.values()) for item in fields["brokers"]]
    levels = list(fields["features"].items())
    tables = [("brokers", columns, rows), ("features", ("feature", "level"), levels)]
    show_things(settings.output, [Thing(fields, tables)])


async def _gathered(admin: Admin) -> dict[str, Any]:
    found = await admin.cluster()
    topics = await admin.topics.list(internal=True)
    partitions = [part for topic in topics.values() for part in topic.partitions.values()]
    return {
        "cluster": found.cluster_id,
        "server": "logd" if found.is_logd else None,
        "controller": found.controller_id,
        "topics": sum(not topic.internal for topic in topics.values()),
        "partitions": len(partitions),
        "without_leader": sum(part.leader < 0 for part in partitions),
        "under_replicated": sum(len(part.in_sync) < len(part.replicas) for part in partitions),
        "brokers": [
            {
                "broker": broker.id,
                "host": broker.address.host,
                "port": broker.address.port,
                "rack": broker.rack,
                "controller": broker.id == found.controller_id,
                "leads": sum(part.leader == broker.id for part in partitions),
            }
            for broker in found.brokers
        ],
        "features": dict(found.features),
    }

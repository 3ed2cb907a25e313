"""``logd-cli cluster``: info, health."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from logd.cli.failures import FAILED, Failure
from logd.cli.options import Settings, common_options
from logd.cli.output import Thing, show_rows, show_things
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


@cluster.command("health")
@common_options()
@click.pass_obj
def health(settings: Settings) -> None:
    """Check the whole cluster: exit code 1 when a partition has no leader or too few replicas.

    In a pipe: one line for each check, with check, ok or failed, and the detail.
    """
    rows = with_admin(settings, _checked)
    show_rows(settings.output, ("check", "result", "detail"), rows)
    failed = [row for row in rows if row[1] != "ok"]
    if failed:
        raise Failure("the cluster is not well", "; ".join(row[2] for row in failed), "logd-cli cluster info", FAILED)


async def _checked(admin: Admin) -> list[tuple[str, str, str]]:
    found = await admin.cluster()
    topics = await admin.topics.list(internal=True)
    parts = [(topic.name, part) for topic in topics.values() for part in topic.partitions.values()]
    lost = [f"{name}/{part.index}" for name, part in parts if part.leader < 0]
    short = [f"{name}/{part.index}" for name, part in parts if len(part.in_sync) < len(part.replicas)]
    ids = {broker.id for broker in found.brokers}
    gone = sorted({node for _, part in parts for node in part.replicas} - ids)
    return [
        _check("controller", found.controller_id in ids, f"broker {found.controller_id}", "there is none"),
        _check("brokers", not gone, f"{len(ids)} there", f"broker {', '.join(map(str, gone))} is away"),
        _check("leaders", not lost, f"{len(parts)} partitions", f"no leader: {_some(lost)}"),
        _check("replicas", not short, "all in sync", f"not in sync: {_some(short)}"),
    ]


def _check(name: str, good: bool, well: str, ill: str) -> tuple[str, str, str]:
    return (name, "ok" if good else "failed", well if good else ill)


def _some(names: list[str]) -> str:
    """The first of many names, and how many more there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more

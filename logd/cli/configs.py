"""``logd-cli config``: get, set, unset, list: the settings of topics, brokers and groups."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import click

from logd.cli.completion import resource_names, setting_names
from logd.cli.failures import NOT_FOUND, USAGE, Failure, did_you_mean, from_refused, typed
from logd.cli.options import Settings, common_options, examples
from logd.cli.outcomes import tell
from logd.cli.output import note, show_lines, show_rows, text_of
from logd.cli.session import existing_topic, with_admin
from logd.errors import ErrorCode, Refused

if TYPE_CHECKING:
    from logd.client import Admin
    from logd.client.configs import ConfigEntry, Resource

KINDS = ("topic", "broker", "group", "client-metrics")
BROKER = re.compile(r"[0-9]{1,10}")
ALL_BROKERS = "default"
"""In place of a broker's number: what holds for all brokers that have no value of their own."""


@click.group()
def config() -> None:
    """Show and change the settings of topics, brokers and groups.

    KIND is topic, broker, group or client-metrics. A broker is named by its number; `default` stands for all brokers
    that have no value of their own.
    """


def _resource(kind: str, name: str) -> Resource:
    from logd.client.configs import Resource

    if kind == "broker" and name != ALL_BROKERS and BROKER.fullmatch(name) is None:
        why = f"{name!r} is neither a number nor {ALL_BROKERS!r}"
        raise Failure("the broker is wrong", why, "logd-cli cluster info", USAGE)
    return Resource(kind, "" if kind == "broker" and name == ALL_BROKERS else name)


def parse_configs(values: Sequence[str], label: str = "--config ") -> dict[str, str]:
    """``key=value`` arguments as a mapping; a failure for one that is not of that form."""
    found: dict[str, str] = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise Failure(f"{label}{text!r} is wrong", "it must be KEY=VALUE", f"{label}retention.ms=3600000", USAGE)
        found[name.strip()] = value
    return found


async def check_there(admin: Admin, resource: Resource) -> None:
    """A topic or a broker that does not exist is a failure; a group need not exist, which is told."""
    if resource.kind == "topic":
        await existing_topic(admin, resource.name)
    elif resource.kind == "broker" and resource.name:
        brokers = (await admin.router.refresh([])).brokers
        if int(resource.name) not in brokers:
            why = f"the cluster has {', '.join(map(str, sorted(brokers)))}"
            raise Failure(f"broker {resource.name} does not exist", why, "logd-cli cluster info", NOT_FOUND)
    elif resource.kind == "group":
        try:
            await admin.groups.describe(resource.name)
        except Refused as error:
            known = [item.group for item in await admin.groups.list()]  # those of other kinds are only listed
            if error.code == ErrorCode.GROUP_ID_NOT_FOUND and resource.name not in known:
                note(f"group {resource.name!r} does not exist now; its settings hold when it does")


async def check_unset(admin: Admin, resource: Resource, keys: Sequence[str]) -> None:
    """What is to be unset must be a setting, though servers take any name. :raises Failure: it is none."""
    known = await _known(admin, resource) if keys else {}
    for key in keys:
        if known and key not in known:
            raise _no_setting(resource, key, known)


def _no_setting(resource: Resource, key: str, known: Iterable[str]) -> Failure:
    hint = did_you_mean(key, known) or f"{resource} has none of that name"
    remedy = f"logd-cli config get {resource.kind} {typed(resource.name or ALL_BROKERS)}"
    return Failure(f"setting {key!r} does not exist", hint, remedy, NOT_FOUND)


async def unknown_setting(admin: Admin, resource: Resource, keys: Sequence[str], error: Refused) -> Failure:
    """The failure for a refused change: names that the server does not know get the nearest ones, but for those that
    are right elsewhere: of them the server says why it has none."""
    from logd.config.foreign import why_absent

    what = f"cannot change the settings of {resource}"
    remedy = f"logd-cli config get {resource.kind} {typed(resource.name or ALL_BROKERS)}"
    if error.code in (ErrorCode.INVALID_CONFIG, ErrorCode.INVALID_REQUEST):
        known = await _known(admin, resource)
        hints = [did_you_mean(key, known) for key in keys if known and key not in known and why_absent(key) is None]
        if any(hints):
            failure = from_refused(error, what, remedy)
            return Failure(what, f"{failure.why}; {' '.join(filter(None, hints))}", remedy, failure.code)
    return from_refused(error, what, remedy)


async def _known(admin: Admin, resource: Resource) -> Mapping[str, ConfigEntry]:
    from logd.client.configs import Resource

    if resource.kind == "broker":
        brokers = (await admin.router.refresh([])).brokers
        resource = Resource("broker", str(min(brokers, default=0)))
    try:
        return await admin.configs.of(resource)
    except Refused:
        return {}


@config.command(
    "get",
    epilog=examples("logd-cli config get topic orders retention.ms --value", "logd-cli config get broker 0 --doc"),
)
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("name", shell_complete=resource_names)
@click.argument("keys", metavar="[KEY]...", nargs=-1, shell_complete=setting_names)
@click.option("--changed", is_flag=True, help="Only those that were set for this resource itself.")
@click.option("--doc", is_flag=True, help="With what each setting means.")
@click.option("--value", "bare", is_flag=True, help="Print the values alone.")
@common_options()
@click.pass_obj
def get(settings: Settings, kind: str, name: str, keys: tuple[str, ...], changed: bool, doc: bool, bare: bool) -> None:
    """Show settings: all, or those that are named.

    In a pipe: one line for each, with setting, value, where the value comes from, and whether it is read-only.
    """
    resource = _resource(kind, name)

    async def run(admin: Admin) -> dict[str, ConfigEntry]:
        await check_there(admin, resource)
        found = await admin.configs.of(resource, documentation=doc)
        for key in keys:
            if key not in found:
                raise _no_setting(resource, key, found)
        return {key: found[key] for key in keys} if keys else found

    own = {"topic": "topic", "broker": "broker", "group": "group", "client-metrics": "client metrics"}[kind]
    source = own if resource.name else "cluster"
    found = [item for item in with_admin(settings, run).values() if not changed or item.source == source]
    if bare:
        return show_lines(text_of(item.value) for item in found)
    columns = ["setting", "value", "source", "read_only"] + ["meaning"] * doc
    rows = [
        (item.name, "(hidden)" if item.sensitive else item.value, item.source, item.read_only)
        + (item.documentation,) * doc
        for item in found
    ]
    show_rows(settings.output, columns, rows)


@config.command(
    "set",
    epilog=examples(
        "logd-cli config set topic orders retention.ms=86400000",
        "logd-cli config set broker default log.retention.ms=604800000",
        "logd-cli config set group billing consumer.session.timeout.ms=30000",
    ),
)
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("name", shell_complete=resource_names)
@click.argument("values", metavar="KEY=VALUE...", nargs=-1, required=True, shell_complete=setting_names)
@click.option("--dry-run", is_flag=True, help="Let the server check it, but change nothing.")
@common_options()
@click.pass_obj
def set_values(settings: Settings, kind: str, name: str, values: tuple[str, ...], dry_run: bool) -> None:
    """Set settings; those that are not named stay as they are."""
    _change(settings, _resource(kind, name), parse_configs(values, ""), (), dry_run)


@config.command("unset", epilog=examples("logd-cli config unset topic orders retention.ms"))
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("name", shell_complete=resource_names)
@click.argument("keys", metavar="KEY...", nargs=-1, required=True, shell_complete=setting_names)
@click.option("--dry-run", is_flag=True, help="Let the server check it, but change nothing.")
@common_options()
@click.pass_obj
def unset_values(settings: Settings, kind: str, name: str, keys: tuple[str, ...], dry_run: bool) -> None:
    """Give settings back to their default."""
    _change(settings, _resource(kind, name), {}, keys, dry_run)


def _change(settings: Settings, resource: Resource, values: Mapping[str, str], unset: Sequence[str], dry: bool) -> None:
    async def run(admin: Admin) -> None:
        await check_there(admin, resource)
        await check_unset(admin, resource, unset)
        try:
            await admin.configs.alter(resource, values, unset, validate_only=dry)
        except Refused as error:
            raise await unknown_setting(admin, resource, [*values, *unset], error) from None

    with_admin(settings, run)
    done = [f"{key}={value}" for key, value in values.items()] + [f"{key} unset" for key in unset]
    note(f"{resource}: {', '.join(done)}{' would be accepted' if dry else ''}")
    verb = "would be " if dry else ""
    tell(settings, "setting", dict.fromkeys(values, f"{verb}set") | dict.fromkeys(unset, f"{verb}unset"))


@config.command("list")
@click.argument("kinds", metavar="[KIND]...", nargs=-1, type=click.Choice(KINDS))
@common_options()
@click.pass_obj
def list_configs(settings: Settings, kinds: tuple[str, ...]) -> None:
    """List every setting that somebody has changed: of topics, brokers, groups and client metrics.

    In a pipe: one line for each, with kind, name, setting and value.
    """
    rows = with_admin(settings, lambda admin: _changed(admin, kinds or KINDS))
    show_rows(settings.output, ("kind", "name", "setting", "value"), rows, name=1, nothing="nothing was changed")


async def _changed(admin: Admin, kinds: Sequence[str]) -> list[tuple[str, str, str, str | None]]:
    from logd.client.configs import SOURCES

    rows: list[tuple[str, str, str, str | None]] = []
    dynamic = set(SOURCES.values()) - {"file", "default"}
    for resource in await _resources(admin, kinds):
        for item in (await admin.configs.of(resource)).values():
            inherited = item.source == "cluster" and resource.name
            shadowed = item.source == "broker" and resource.kind != "broker"
            if item.source in dynamic and not inherited and not shadowed:
                value = "(hidden)" if item.sensitive else item.value
                rows.append((resource.kind, resource.name or ALL_BROKERS, item.name, value))
    return rows


async def _resources(admin: Admin, kinds: Sequence[str]) -> list[Resource]:
    """All resources that can have settings; groups and client metrics only where the server can list them."""
    from logd.client import NotSupported
    from logd.client.configs import Resource

    found: list[Resource] = []
    if "topic" in kinds:
        found += [Resource("topic", name) for name in await admin.topics.list(internal=True)]
    if "broker" in kinds:
        brokers = (await admin.router.refresh([])).brokers
        found += [Resource("broker", ""), *(Resource("broker", str(node)) for node in sorted(brokers))]
    listed = [kind for kind in ("group", "client-metrics") if kind in kinds]
    if listed:
        try:
            found += sorted(await admin.configs.resources(listed))
        except NotSupported as error:
            note(f"settings of {' and '.join(listed)} are not listed: {error.why}")
    return found

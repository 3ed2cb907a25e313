"""``logd-cli group``: the noun; its verbs are in ``groups``, ``lag`` and ``seek``."""

from __future__ import annotations

import click

from logd.cli.lazy import LazyGroup


@click.group(
    cls=LazyGroup,
    lazy={
        "delete": "logd.cli.groups:delete",
        "describe": "logd.cli.groups:describe",
        "lag": "logd.cli.lag:lag",
        "list": "logd.cli.groups:list_groups",
        "reset": "logd.cli.seek:reset",
        "seek": "logd.cli.seek:seek",
    },
)
def group() -> None:
    """Show consumer groups, how far behind they are, and move them."""

"""Brings a freshly started server to the state in which its answers no longer depend on how long it has been up."""

from __future__ import annotations

from collections.abc import Callable

from .peer import Connection
from .specs import Message

TRIES = 20_000
TRANSACTIONAL_ID_NOT_FOUND = 105
SOME_GROUPS = [f"ready-{number}" for number in range(200)]
"""So many that every partition of the offsets topic coordinates one."""


def make_ready(connection: Connection) -> None:
    """Group and transaction coordinators loaded, producer ids at hand. Asks again until it is so."""
    _until(connection, "FindCoordinator", 4, _found, key_type=0, coordinator_keys=["ready"])
    _until(connection, "DescribeGroups", 5, _described, groups=SOME_GROUPS)
    _until(connection, "FindCoordinator", 4, _found, key_type=1, coordinator_keys=["ready"])
    _until(connection, "DescribeTransactions", 0, _looked_for, transactional_ids=SOME_GROUPS)
    _until(connection, "InitProducerId", 4, _fine, transactional_id=None, transaction_timeout_ms=1000)


def _until(connection: Connection, api: str, version: int, done: Callable[[Message], bool], **values: object) -> None:
    for _ in range(TRIES):
        if done(connection.ask(api, version, **values)):
            return
    raise AssertionError(f"{api}: the server does not get ready")


def _found(answer: Message) -> bool:
    return all(row["error_code"] == 0 for row in answer["coordinators"])


def _described(answer: Message) -> bool:
    return all(row["error_code"] == 0 for row in answer["groups"])


def _looked_for(answer: Message) -> bool:
    return all(row["error_code"] == TRANSACTIONAL_ID_NOT_FOUND for row in answer["transaction_states"])


def _fine(answer: Message) -> bool:
    return bool(answer["error_code"] == 0)

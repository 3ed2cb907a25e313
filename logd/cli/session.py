"""From a command to trio and back: runs the asynchronous part, lets failures through, ends quietly on Ctrl-C.

Imports trio and the client only when a command really asks a server.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from logd.cli.failures import CANNOT_CONNECT, NOT_FOUND, USAGE, Failure, unknown_topic
from logd.cli.options import Settings

if TYPE_CHECKING:
    from logd.client import Admin, Router
    from logd.client.metadata import TopicInfo
    from logd.client.settings import ClientSettings

T = TypeVar("T")

LOOK_S = 5.0
"""How often a command that only reads looks for the server."""


def client_settings(settings: Settings) -> ClientSettings:
    """The client's settings for the options of the command line."""
    from logd.client.settings import ClientSettings

    limit_ms = settings.timeout_ms
    return ClientSettings(
        client_id="logd-cli",
        connect_timeout_ms=min(limit_ms, 10_000),
        request_timeout_ms=limit_ms,
        retry_timeout_ms=limit_ms,
        unknown_topic_timeout_ms=min(limit_ms, 5_000),
    )


def with_admin(settings: Settings, action: Callable[[Admin], Awaitable[T]]) -> T:
    """Run `action` with an administrator of the cluster that the options name."""

    async def run() -> T:
        from logd.client import Admin

        async with Admin(settings.bootstrap, client=client_settings(settings)) as admin:
            return await action(admin)

    return run_async(settings, run)


def run_async(settings: Settings, action: Callable[[], Awaitable[T]]) -> T:
    """Run it under trio. Raises what it raises, groups of one unpacked."""
    import trio

    from logd.client.address import parse_addresses
    from logd.client.errors import CannotConnect

    try:
        parse_addresses(settings.bootstrap)
    except ValueError as error:
        raise Failure("the address of the server is wrong", str(error), "--bootstrap HOST:PORT", USAGE) from None
    try:
        return trio.run(action)
    except BaseExceptionGroup as group:
        raise _named(only(group)) from None
    except CannotConnect as error:
        raise _named(error) from None


async def until_lost(router: Router) -> None:
    """Look now and then whether the server is still there: a consumer goes on asking for as long as it lives.

    :raises ClientError: it could not be asked for as long as --timeout says.
    """
    import trio

    while True:
        await trio.sleep(LOOK_S)
        await router.retry(lambda: router.refresh([]))


def _named(error: BaseException) -> BaseException:
    """A connection that got no answer: with what is there instead, where that can be found out."""
    from logd.client.errors import CannotConnect

    if not isinstance(error, CannotConnect) or error.mute is None:
        return error
    from logd.cli.peer import stranger

    found = stranger(error.mute.host, error.mute.port)
    return error if found is None else Failure(error.what, *found, CANNOT_CONNECT)


def only(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error in a group, or the group when there are several; Ctrl-C goes before all others, and several who
    find that nobody reads the output have found one thing."""
    if group.subgroup(KeyboardInterrupt) is not None:
        return KeyboardInterrupt()
    if group.split(BrokenPipeError)[1] is None:
        return BrokenPipeError()
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


async def existing_topic(admin: Admin, name: str) -> TopicInfo:
    """The topic, or a failure that names the nearest ones."""
    from logd.errors import ErrorCode, Refused

    found = (await admin.topics.describe([name]))[name]
    if not isinstance(found, Refused):
        return found
    if found.code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION:
        raise unknown_topic(name, await admin.topics.list())
    if found.code == ErrorCode.INVALID_TOPIC_EXCEPTION:
        why = "a name has up to 249 letters, digits, '.', '_' and '-'"
        raise Failure(f"{name!r} can't name a topic", why, "logd-cli topic list", NOT_FOUND)
    raise found

"""How `logd-cli` fails: one line each of what, why and what to type next, and an exit code that scripts can rely on.

Everything that goes wrong becomes a :class:`Failure` here; ``main`` prints it. Imports neither trio nor the client:
a failure of the network can't occur before they are loaded.
"""

from __future__ import annotations

import difflib
import errno
import shlex
import sys
from collections.abc import Iterable

from logd.cli.output import printable
from logd.errors import Corrupt, DecodeError, ErrorCode, Refused

DONE = 0
FAILED = 1
USAGE = 2
CANNOT_CONNECT = 3
NOT_AUTHORISED = 4
NOT_FOUND = 5
EXISTS = 6
TIMED_OUT = 7
PARTLY_FAILED = 8
SIGNALLED = 128
"""And the number of the signal."""
INTERRUPTED = 130

EXIT_CODES = {
    DONE: "done",
    FAILED: "failed",
    USAGE: "usage: the command line is wrong",
    CANNOT_CONNECT: "cannot connect to a server",
    NOT_AUTHORISED: "not authorised",
    NOT_FOUND: "not found",
    EXISTS: "exists already",
    TIMED_OUT: "timed out",
    PARTLY_FAILED: "partly failed: some of it was done",
    INTERRUPTED: "interrupted; 143 and 129: ended by SIGTERM or SIGHUP",
}
"""What each exit code means, for the documentation."""

CODES_OF_ERRORS = {
    ErrorCode.TOPIC_AUTHORIZATION_FAILED: NOT_AUTHORISED,
    ErrorCode.GROUP_AUTHORIZATION_FAILED: NOT_AUTHORISED,
    ErrorCode.CLUSTER_AUTHORIZATION_FAILED: NOT_AUTHORISED,
    ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: NOT_AUTHORISED,
    ErrorCode.SASL_AUTHENTICATION_FAILED: NOT_AUTHORISED,
    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION: NOT_FOUND,
    ErrorCode.UNKNOWN_TOPIC_ID: NOT_FOUND,
    ErrorCode.GROUP_ID_NOT_FOUND: NOT_FOUND,
    ErrorCode.RESOURCE_NOT_FOUND: NOT_FOUND,
    ErrorCode.TRANSACTIONAL_ID_NOT_FOUND: NOT_FOUND,
    ErrorCode.TOPIC_ALREADY_EXISTS: EXISTS,
    ErrorCode.REQUEST_TIMED_OUT: TIMED_OUT,
}

WHY = {
    ErrorCode.TOPIC_ALREADY_EXISTS: "the server has a topic of that name",
    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION: "the server has no such topic or partition",
    ErrorCode.MESSAGE_TOO_LARGE: "a record is larger than max.message.bytes of its topic",
    ErrorCode.NOT_ENOUGH_REPLICAS: "fewer replicas are in sync than min.insync.replicas asks for",
    ErrorCode.INVALID_PARTITIONS: "the number of partitions is not possible",
    ErrorCode.INVALID_REPLICATION_FACTOR: "there are not that many brokers",
    ErrorCode.KAFKA_STORAGE_ERROR: "the server's disk failed",
    ErrorCode.LEADER_NOT_AVAILABLE: "the partition has no leader now",
    ErrorCode.NON_EMPTY_GROUP: "it has members",
    ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC: "a member of the group is subscribed to the topic",
    ErrorCode.NOT_COORDINATOR: "no broker answers for the group yet: the server has just started, or makes its topic",
    ErrorCode.COORDINATOR_NOT_AVAILABLE: "no broker answers for the group now",
    ErrorCode.COORDINATOR_LOAD_IN_PROGRESS: "the server still reads what it knows of its groups",
}

PASSING = frozenset(
    {
        ErrorCode.LEADER_NOT_AVAILABLE,
        ErrorCode.NOT_COORDINATOR,
        ErrorCode.COORDINATOR_NOT_AVAILABLE,
        ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
        ErrorCode.REQUEST_TIMED_OUT,
    }
)
"""What may pass by itself; it was tried again for as long as --timeout says."""


REMEDIES = {
    errno.ENOSPC: "free some space, or write elsewhere",
    errno.EDQUOT: "free some space, or write elsewhere",
    errno.EACCES: "ask for the rights, or give another file",
    errno.EPERM: "ask for the rights, or give another file",
    errno.ENOENT: "check the name",
    errno.EBADF: "give it a file or a pipe to write to",
}
"""What to do when a file can't be used."""

NOT_TEXT = "names are UTF-8; only values and keys of records may be other bytes"


class Failure(Exception):
    """A command that ends badly.

    :param what: what failed. :param why: the cause. :param remedy: a command line, or what else to do; may be empty.
    :param code: the exit code.
    """

    def __init__(self, what: str, why: str, remedy: str = "", code: int = FAILED) -> None:
        super().__init__(f"{what}: {why}")
        self.what = what
        self.why = why
        self.remedy = remedy
        self.code = code


def show(failure: Failure) -> None:
    """The three lines, on stderr."""
    lines = [("error", failure.what), ("why", failure.why), ("try", failure.remedy)]
    for label, text in lines:
        if text:
            print(f"{label + ':':<7}{printable(' '.join(text.split()))}", file=sys.stderr, flush=True)


def from_refused(error: Refused, what: str, remedy: str = "") -> Failure:
    """The server said no."""
    name = error.code.name
    why = error.message or WHY.get(error.code, "the server refused it")
    if error.code in WHY and error.message.endswith(name):
        why = WHY[error.code]
    code = CODES_OF_ERRORS.get(error.code, FAILED)
    return Failure(what, f"{why.rstrip('.')} ({name})" if name not in why else why, remedy, code)


def explain(error: BaseException) -> Failure | None:
    """The failure for an error of a lower layer; None for one that is a bug of ours."""
    if isinstance(error, Failure):
        return error
    if isinstance(error, Refused):
        passing = "try again in a moment; logd-cli cluster health says how the cluster is"
        remedy = passing if error.code in PASSING else "the server's log may say more"
        return from_refused(error, "the server refused the request", remedy)
    if isinstance(error, Corrupt):
        why = str(error).removeprefix(f"{error.path} at byte {error.position}: ")
        return Failure(f"{error.path} is damaged at byte {error.position}", why, "take another copy of it", FAILED)
    if isinstance(error, DecodeError):
        return Failure("bytes that can't be read", str(error), "logd-cli log verify DIRECTORY checks the data at rest")
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        what = "a file can't be used" if where else "reading or writing failed"
        remedy = REMEDIES.get(error.errno or 0, "check the file, its directory and your rights")
        return Failure(what, f"{where}{error.strerror or error}", remedy)
    text = error.__cause__ if isinstance(error.__cause__, UnicodeEncodeError) else error
    if isinstance(text, UnicodeEncodeError):
        what = "a text can't be sent or shown"
        return Failure(what, f"{text.object!r} does not fit into {text.encoding}", NOT_TEXT, USAGE)
    return _from_client(error)


def _from_client(error: BaseException) -> Failure | None:
    module = sys.modules.get("logd.client.errors")
    if module is None or not isinstance(error, module.ClientError):
        return None
    code, remedy = FAILED, error.remedy
    if isinstance(error, module.CannotConnect | module.ConnectionLost):
        code = CANNOT_CONNECT
    elif isinstance(error, module.TimedOut):
        code = TIMED_OUT
    if isinstance(error, module.ConnectionLost) and error.remedy:  # it was tried again all the time
        remedy = "logd-cli doctor says whether it wants a login, or what else is wrong; the server's log may say more"
    return Failure(error.what, error.why, remedy, code)


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Up to three of the known names that may have been meant, the likeliest first."""
    return difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`did you mean 'orders'?`, or nothing when no known name is near."""
    near = nearest(name, known)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else ""


def typed(name: str) -> str:
    """A name as it is typed: a group may be called anything, and what stands behind `try:` is copied into a shell."""
    return shlex.quote(name)


def unknown_topic(name: str, known: Iterable[str]) -> Failure:
    """A topic that is not there, with the nearest names."""
    names = list(known)
    hint = did_you_mean(name, names)
    why = f"the server has {len(names)} topic{'' if len(names) == 1 else 's'}, none of that name"
    remedy = "logd-cli topic list" if names else f"logd-cli topic create {typed(name)}"
    return Failure(f"topic {name!r} does not exist", f"{why}; {hint}" if hint else why, remedy, NOT_FOUND)

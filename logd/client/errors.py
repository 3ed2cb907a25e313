"""What can go wrong between a client and a server, in three parts: what, why, what to do next.

Raised by everything in ``logd.client``; shown by ``logd-cli`` as it stands. An error that the server itself
answered is not here: that is :class:`logd.errors.Refused`, with the server's code.
"""

from __future__ import annotations

from typing import Self

from logd.client.address import Address
from logd.errors import ErrorCode, Refused


class ClientError(Exception):
    """A request that got no answer.

    :param what: what failed, one clause.
    :param why: the cause as far as it is known, one clause.
    :param remedy: what to try next, one clause; may be empty.
    """

    def __init__(self, what: str, why: str, remedy: str = "") -> None:
        super().__init__(f"{what}: {why}")
        self.what = what
        self.why = why
        self.remedy = remedy

    def copy(self) -> Self:
        """The same error anew, so that several tasks can raise it."""
        return type(self)(self.what, self.why, self.remedy)


class CannotConnect(ClientError):
    """No connection could be opened, or what answered is not a Kafka-style server.

    ``mute`` is the address of something that took the connection, but hung up or kept silent when it was greeted.
    """

    mute: Address | None = None

    def copy(self) -> Self:
        """The same error anew."""
        again = super().copy()
        again.mute = self.mute
        return again


class ConnectionLost(ClientError):
    """The connection ended while an answer was awaited: whether the server acted is not known."""


class TimedOut(ClientError):
    """No answer within the limit: whether the server acted is not known."""


class NotSupported(ClientError):
    """The server does not offer this API, or only in versions that this client does not speak."""


class BadAnswer(ClientError):
    """The server's answer can't be read: the connection is closed."""


class CommitFailed(ClientError):
    """Offsets were not committed: the partitions were given to other members meanwhile, or are about to be.

    ``code`` is the server's answer.
    """

    code = ErrorCode.UNKNOWN_MEMBER_ID

    def copy(self) -> Self:
        """The same error anew."""
        again = super().copy()
        again.code = self.code
        return again


class ProducerFenced(ClientError):
    """The transactional id belongs to another producer now: this one can do nothing more with it."""


# Kafka calls these retriable: the same request can succeed later, after a look at fresh metadata.
RETRIABLE = frozenset(
    {
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        ErrorCode.LEADER_NOT_AVAILABLE,
        ErrorCode.NOT_LEADER_OR_FOLLOWER,
        ErrorCode.REQUEST_TIMED_OUT,
        ErrorCode.BROKER_NOT_AVAILABLE,
        ErrorCode.REPLICA_NOT_AVAILABLE,
        ErrorCode.NETWORK_EXCEPTION,
        ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
        ErrorCode.COORDINATOR_NOT_AVAILABLE,
        ErrorCode.NOT_COORDINATOR,
        ErrorCode.NOT_ENOUGH_REPLICAS,
        ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        ErrorCode.NOT_CONTROLLER,
        ErrorCode.KAFKA_STORAGE_ERROR,
        ErrorCode.FETCH_SESSION_ID_NOT_FOUND,
        ErrorCode.INVALID_FETCH_SESSION_EPOCH,
        ErrorCode.LISTENER_NOT_FOUND,
        ErrorCode.FENCED_LEADER_EPOCH,
        ErrorCode.UNKNOWN_LEADER_EPOCH,
        ErrorCode.OFFSET_NOT_AVAILABLE,
        ErrorCode.PREFERRED_LEADER_NOT_AVAILABLE,
        ErrorCode.ELIGIBLE_LEADERS_NOT_AVAILABLE,
        ErrorCode.UNSTABLE_OFFSET_COMMIT,
        ErrorCode.THROTTLING_QUOTA_EXCEEDED,
        ErrorCode.UNKNOWN_TOPIC_ID,
        ErrorCode.INCONSISTENT_TOPIC_ID,
        ErrorCode.CONCURRENT_TRANSACTIONS,
    }
)


def error_code(number: int) -> ErrorCode:
    """The code for a number from the wire; a number that we do not know counts as UNKNOWN_SERVER_ERROR."""
    try:
        return ErrorCode(number)
    except ValueError:
        return ErrorCode.UNKNOWN_SERVER_ERROR


def refused(number: int, message: str | None, subject: str) -> Refused:
    """The server's refusal as an exception; `subject` names what it was about."""
    code = error_code(number)
    return Refused(code, message or f"{subject}: {code.name}")


def check(number: int, message: str | None, subject: str) -> None:
    """Raise :class:`Refused` unless the code is 0."""
    if number:
        raise refused(number, message, subject)


def is_retriable(error: BaseException) -> bool:
    """Whether the same request may succeed when it is sent again."""
    if isinstance(error, Refused):
        return error.code in RETRIABLE
    return isinstance(error, ConnectionLost | TimedOut | CannotConnect)

"""The table of fetch sessions: epochs, order, and what happens when it is full."""

from __future__ import annotations

import pytest

from logd.apis.fetch_sessions import EPOCH_MAX, EVICTION_MS, Sessions
from logd.errors import ErrorCode, Refused
from logd.testing import Broker
from logd.wire.schemas.fetch import FetchPartition, FetchRequest, FetchTopic, ForgottenTopic
from tests.raw import Peer


def asking(*indexes: int, session: int = 0, epoch: int = 0) -> FetchRequest:
    topics = [FetchTopic("t", partitions=[FetchPartition(index) for index in indexes])] if indexes else []
    return FetchRequest(session_id=session, session_epoch=epoch, topics=topics)


def test_epochs_count_up_and_wrap() -> None:
    """Each request carries the next epoch; after the largest comes 1, for 0 would begin anew."""
    sessions = Sessions(10)
    session = sessions.begin(asking(0), False, 0)
    assert session is not None
    assert sessions.resume(asking(session=session.id, epoch=1), False, 0) is session
    session.epoch = EPOCH_MAX
    sessions.resume(asking(session=session.id, epoch=EPOCH_MAX), False, 0)
    assert session.epoch == 1


def test_topic_ids_may_not_begin_later() -> None:
    """A session goes on as it began, by names or by ids."""
    sessions = Sessions(10)
    session = sessions.begin(asking(0), False, 0)
    assert session is not None
    with pytest.raises(Refused) as refused:
        sessions.resume(asking(session=session.id, epoch=1), True, 0)
    assert refused.value.code == ErrorCode.FETCH_SESSION_TOPIC_ID_ERROR


def test_a_full_table_gives_no_session_until_one_is_old() -> None:
    """Nobody who is active loses a session; one that was silent for two minutes makes room."""
    sessions = Sessions(2)
    first = sessions.begin(asking(0), False, 0)
    second = sessions.begin(asking(0), False, 10)
    assert first is not None
    assert second is not None
    assert sessions.begin(asking(0), False, EVICTION_MS) is None
    sessions.resume(asking(session=first.id, epoch=1), False, EVICTION_MS)
    third = sessions.begin(asking(0), False, EVICTION_MS + 11)
    assert third is not None
    with pytest.raises(Refused):
        sessions.resume(asking(session=second.id, epoch=1), False, EVICTION_MS + 11)


def test_rotation_puts_the_served_last() -> None:
    """Who got data waits until the others had their turn."""
    session = Sessions(2).begin(asking(0, 1, 2), False, 0)
    assert session is not None
    session.rotate([session.followed["t", bytes(16), 0]])
    assert [followed.index for followed in session.followed.values()] == [1, 2, 0]


def test_what_is_asked_for_and_forgotten_is_forgotten() -> None:
    """In one request, as in Kafka."""
    sessions = Sessions(10)
    session = sessions.begin(asking(0, 1), False, 0)
    assert session is not None
    both = asking(0, session=session.id, epoch=1)
    both.forgotten_topics_data = [ForgottenTopic("t", partitions=[0])]
    assert [one.index for one in sessions.resume(both, False, 0).followed.values()] == [1]


def test_a_full_request_forgets_nothing() -> None:
    """It names all that it wants: what it says is to be forgotten is read all the same, as in Kafka."""
    full = asking(0, 1)
    full.forgotten_topics_data = [ForgottenTopic("t", partitions=[0])]
    session = Sessions(10).begin(full, False, 0)
    assert session is not None
    assert [one.index for one in session.followed.values()] == [0, 1]


def test_a_session_of_before_a_restart_is_nobody_elses() -> None:
    """A consumer that comes back closes the session that it had; the new one of another has another id."""
    with Broker() as own:
        with Peer(own.bootstrap) as before:
            before.make_topic("t")
            old = [before.ask(fetch_of("t"), 11).session_id for _ in range(3)]
        own.restart()
        with Peer(own.bootstrap) as first, Peer(own.bootstrap) as second:
            session = first.ask(fetch_of("t"), 11).session_id
            for number in old:
                assert second.ask(fetch_of("t", number), 11).session_id not in old
            again = FetchRequest(max_wait_ms=0, min_bytes=1, session_id=session, session_epoch=1)
            assert first.ask(again, 11).error_code == 0


def fetch_of(topic: str, session: int = 0) -> FetchRequest:
    """A full request, which begins a session."""
    topics = [FetchTopic(topic, partitions=[FetchPartition(0, partition_max_bytes=1000)])]
    return FetchRequest(max_wait_ms=0, min_bytes=1, session_id=session, session_epoch=0, topics=topics)

"""The leader epochs of a log and the questions of followers (KIP-101, KIP-279)."""

from __future__ import annotations

import pytest

from logd.log.epochs import Epochs


@pytest.fixture
def epochs() -> Epochs:
    return Epochs([(2, 0), (5, 10), (6, 20)])


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        (-1, (-1, -1)),
        (7, (-1, -1)),  # newer than all known
        (6, (6, 25)),  # the latest: the log's end
        (5, (5, 20)),
        (4, (2, 10)),  # between known ones: the next lower, and where it ends
        (3, (2, 10)),
        (2, (2, 10)),
        (1, (1, 0)),  # older than all known
    ],
)
def test_end_offset_for(epochs: Epochs, asked: int, answer: tuple[int, int]) -> None:
    """Each case of OffsetForLeaderEpoch."""
    assert epochs.end_offset_for(asked, 25) == answer


def test_nothing_known() -> None:
    """A log without epochs knows no end."""
    assert Epochs().end_offset_for(0, 5) == (-1, -1)


def test_assign(epochs: Epochs) -> None:
    """A newer epoch is noted; an older one is known; one that got no record gives way."""
    epochs.assign(6, 30)
    epochs.assign(5, 30)
    assert epochs.latest == 6
    epochs.assign(7, 30)
    epochs.assign(9, 30)
    assert epochs.entries == [(2, 0), (5, 10), (6, 20), (9, 30)]


@pytest.mark.parametrize(
    ("offset", "left"),
    [(0, [(2, 0), (5, 10), (6, 20)]), (5, [(2, 5), (5, 10), (6, 20)]), (10, [(5, 10), (6, 20)]), (99, [(6, 99)])],
)
def test_truncate_start(epochs: Epochs, offset: int, left: list[tuple[int, int]]) -> None:
    """The epoch in force at the new start stays and starts there."""
    epochs.truncate_start(offset)
    assert epochs.entries == left


@pytest.mark.parametrize(("offset", "left"), [(25, 3), (20, 2), (11, 2), (10, 1), (0, 0)])
def test_truncate_end(epochs: Epochs, offset: int, left: int) -> None:
    """Epochs that start at or after the new end are forgotten."""
    epochs.truncate_end(offset)
    assert len(epochs.entries) == left
    assert epochs.latest == (epochs.entries[-1][0] if epochs.entries else -1)


@pytest.mark.parametrize(("offset", "epoch"), [(0, 2), (9, 2), (10, 5), (20, 6), (99, 6)])
def test_epoch_at(epochs: Epochs, offset: int, epoch: int) -> None:
    """The epoch of a record."""
    assert epochs.epoch_at(offset) == epoch

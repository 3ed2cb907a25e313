"""What goes wrong in a test's broker. Raised by the other modules of ``logd.testing``, caught by tests."""

from __future__ import annotations


class BrokerFailed(AssertionError):
    """The broker in the test's process ended, or never became ready; its own exception is the cause."""


class NotThereYet(AssertionError):
    """What a test waited for did not come within its time; the text says how much did."""

"""A clock for leases that stands still until a test moves it."""

from __future__ import annotations


class HandClock:
    """A `LeaseClock` turned by hand."""

    def __init__(self) -> None:
        self.boot = "boot-1"
        self.now_ms = 1_000

    def boot_id(self) -> str:
        return self.boot

    def elapsed_ms(self) -> int:
        return self.now_ms

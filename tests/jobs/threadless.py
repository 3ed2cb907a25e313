"""The worker process on a machine that has no thread to give: ``python -m tests.jobs.threadless``."""

from __future__ import annotations

import threading

from logd.jobs import worker


def refuse(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


if __name__ == "__main__":
    threading.Thread.start = refuse  # type: ignore[method-assign]
    worker.main()

"""A real broker inside the process of a test.

``pip install logd`` gives pytest the fixture ``logd_broker`` (see :mod:`logd.testing.plugin`); without pytest,
:class:`Broker` is a context manager. Nothing heavy is imported before one of them is used, because pytest loads
the plugin in every project that has logd installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from logd.testing.broker import Broker

__all__ = ["Broker"]


def __getattr__(name: str) -> object:
    """Import :class:`Broker` when it is first asked for."""
    if name == "Broker":
        from logd.testing.broker import Broker

        return Broker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

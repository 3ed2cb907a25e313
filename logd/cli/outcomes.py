"""The outcome of one action on several things: what was done is told, then what was not becomes one failure.

Used by the commands that take several names; exit code 8 when some were done and some were not.
"""

from __future__ import annotations

from collections.abc import Mapping

from logd.cli.failures import FAILED, PARTLY_FAILED, Failure, from_refused
from logd.cli.options import Settings
from logd.cli.output import note, show_rows
from logd.errors import Refused


def tell(settings: Settings, noun: str, results: Mapping[str, str]) -> None:
    """What became of each, as data: only where a form of the output was asked for, since people read the notes."""
    if settings.given_output is not None:
        show_rows(settings.given_output, (noun, "result"), list(results.items()))


def settle(
    settings: Settings, noun: str, verb: str, outcome: Mapping[str, Refused | None], done: str, remedy: str
) -> int:
    """Tell what was done, then fail if something was not: partly, when something was."""
    failed = {name: error for name, error in outcome.items() if error is not None}
    for name in outcome:
        if name not in failed:
            note(f"{noun} {name!r} {done}")
    tell(settings, noun, {name: done if error is None else error.code.name for name, error in outcome.items()})
    if not failed:
        return 0
    failures = [from_refused(error, f"cannot {verb} {noun} {name!r}", remedy) for name, error in failed.items()]
    if len(failed) == len(outcome) == 1:
        raise failures[0]
    codes = {failure.code for failure in failures}
    code = PARTLY_FAILED if len(failed) < len(outcome) else codes.pop() if len(codes) == 1 else FAILED
    why = "; ".join(f"{name}: {failure.why}" for name, failure in zip(failed, failures, strict=True))
    raise Failure(f"cannot {verb} {len(failed)} of {len(outcome)} {noun}s", why, remedy, code)

"""Where to read from, as `--offset` says it: start, end, -10, @-1h, @2026-11-01T00:00Z, 42, 100:200, @-2h:@-1h.

Pure: the time comes as an argument. Used by ``places``.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import NamedTuple

START, END, TAIL, TIME, OFFSET, RANGE = "start", "end", "tail", "time", "offset", "range"

UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}

PLACES = "start, end, 42, -10, @-1h, @2026-11-01T00:00Z or @MILLISECONDS"
FORMS = PLACES.replace("@-1h", "100:200, @-1h, @-2h:@-1h")

OTHER_WORDS = {
    **dict.fromkeys(("start", "beginning", "begin", "earliest", "oldest", "first", "smallest"), START),
    **dict.fromkeys(("end", "latest", "newest", "last", "largest", "now", "@now"), END),
    "-": "-1",
}
TIME_MS_MAX = (1 << 63) - 1

_AGO = re.compile(r"-(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
_RANGE = re.compile(r"(\d*):(\d*)")


class Where(NamedTuple):
    """A place in a log: the kind is one of the constants above.

    `value` is the number of records from the end (tail), milliseconds since 1970 (time), or the first offset;
    `end` is the offset, or for a time the time, to stop before, or None.
    """

    kind: str
    value: int = 0
    end: int | None = None


def parse_where(text: str, now_ms: int, *, ranges: bool = True) -> Where:
    """What `text` means at `now_ms`. :raises ValueError: with a sentence that shows the forms, or for a range that is
    not meant."""
    if text in (START, END):
        return Where(text)
    if text.startswith("@") and ":@" in text:
        if not ranges:
            raise ValueError(f"{text!r} is a range; one place is needed here: {PLACES}")
        return _times(text, now_ms)
    if text.startswith("@"):
        return Where(TIME, _time_ms(text[1:], text, now_ms))
    if re.fullmatch(r"-\d+", text):
        return Where(TAIL, int(text[1:]))
    if re.fullmatch(r"\d+", text):
        return Where(OFFSET, int(text))
    bounds = _RANGE.fullmatch(text)
    if bounds is not None and text != ":":
        if not ranges:
            raise ValueError(f"{text!r} is a range; one place is needed here: {PLACES}")
        return _range(text, *bounds.groups())
    hint = f"; did you mean {meant(text)}?" if meant(text) else ""
    raise ValueError(f"{text!r} is no offset{hint or f'; write {FORMS if ranges else PLACES}'}")


def meant(text: str) -> str:
    """The place that another tool calls so; nothing where there is none."""
    return OTHER_WORDS.get(text.strip().lower(), "")


def parse_moment(text: str, now_ms: int) -> int:
    """A time in milliseconds since 1970, with or without its @. :raises ValueError: with a sentence that shows them."""
    return _time_ms(text.removeprefix("@"), text, now_ms)


def _range(text: str, first: str, last: str) -> Where:
    start, end = int(first or 0), int(last) if last else None
    if end is not None and end < start:
        raise ValueError(f"{text!r} ends before it starts; the second offset is where reading stops")
    return Where(RANGE, start, end)


def _times(text: str, now_ms: int) -> Where:
    first, _, last = text.partition(":@")
    start, end = _time_ms(first[1:], first, now_ms), _time_ms(last, f"@{last}", now_ms)
    if end < start:
        raise ValueError(f"{text!r} ends before it starts; the second time is where reading stops")
    return Where(TIME, start, end)


def _time_ms(text: str, whole: str, now_ms: int) -> int:
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return max(now_ms - int(min(float(ago[1]) * UNITS_MS[ago[2]], TIME_MS_MAX)), 0)
    if re.fullmatch(r"\d+", text):
        if int(text) > TIME_MS_MAX:
            raise ValueError(f"{whole!r} is too far away; it is in milliseconds since 1970")
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{whole!r} is no time; write @-1h, @2026-11-01T00:00Z or @MILLISECONDS") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(int(moment.timestamp() * 1000), 0)

"""Regular expressions that clients send: PURE, bounded.

Over topics (``subscribedTopicRegex``, KIP-848), transactional ids (KIP-1152) and what is known of a client (KIP-714).
The syntax is RE2's; back references and look-around are refused, as RE2 does. An expression becomes an automaton
without backtracking, so that a match costs a step for each character, and every :class:`Expression` has a budget of
steps that no client can exceed: the loop never stalls. It knows neither groups nor clients.
"""

from __future__ import annotations

import string
from collections.abc import Iterable

from logd.errors import ErrorCode, Refused

LENGTH_MAX = 1000
REPEAT_MAX = 1000
DEPTH_MAX = 50
STATES_MAX = 5000
STEPS_MAX = 100_000
"""To build an expression, and for the names of one resolution: some tenths of a second at most."""

DIGITS = frozenset(string.digits)
WORD = frozenset(string.ascii_letters + string.digits + "_")
LEGAL = WORD | frozenset(".-")
"""What a topic's name is made of; nothing else can be matched, so a class over topics is a set of these."""
OTHER = "\U0010ffff"
"""Stands for every character that is neither in Latin-1 nor in the expression: no class tells those apart."""
LATIN = frozenset(map(chr, range(256)))

_CLASSES = {"d": DIGITS, "w": WORD, "s": frozenset("\t\n\f\r ")}
_NAMED = {
    "alnum": frozenset(string.ascii_letters + string.digits),
    "alpha": frozenset(string.ascii_letters),
    "ascii": frozenset(map(chr, range(128))),
    "blank": frozenset("\t "),
    "cntrl": frozenset(map(chr, (*range(32), 127))),
    "digit": DIGITS,
    "graph": frozenset(map(chr, range(33, 127))),
    "lower": frozenset(string.ascii_lowercase),
    "print": frozenset(map(chr, range(32, 127))),
    "punct": frozenset(string.punctuation),
    "space": frozenset(string.whitespace),
    "upper": frozenset(string.ascii_uppercase),
    "word": WORD,
    "xdigit": frozenset(string.hexdigits),
}
_UNICODE = {
    "L": WORD - DIGITS - {"_"},
    "Lu": _NAMED["upper"],
    "Ll": _NAMED["lower"],
    "N": DIGITS,
    "Nd": DIGITS,
    "P": _NAMED["punct"],
    "Latin": WORD - DIGITS - {"_"},
    "Greek": frozenset[str](),
}
_CONTROL = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "a": "\a"}

Node = tuple[str, object, int, int]
"""(kind, what, low, high): set, cat, alt, rep (high -1: no end), start, end."""


def _bad(text: str, why: str) -> Refused:
    return Refused(ErrorCode.INVALID_REGULAR_EXPRESSION, f"the expression {text[:100]!r} can't be used: {why}")


class _Parser:
    """Recursive descent over one expression, whose classes are sets of characters of an alphabet."""

    def __init__(self, text: str, alphabet: frozenset[str]) -> None:
        self._text = text
        self._alphabet = alphabet
        self._at = 0
        self._depth = 0
        self._fold = False

    def parse(self) -> Node:
        node = self._alternatives()
        if self._at < len(self._text):
            raise self._error("unmatched )")
        return node

    def _error(self, why: str) -> Refused:
        return _bad(self._text, f"{why}, at character {self._at + 1}")

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self, wanted: str) -> bool:
        if self._text.startswith(wanted, self._at):
            self._at += len(wanted)
            return True
        return False

    def _next(self) -> str:
        if self._at >= len(self._text):
            raise self._error("it ends too early")
        self._at += 1
        return self._text[self._at - 1]

    def _alternatives(self) -> Node:
        fold = self._fold
        choices = [self._sequence()]
        while self._take("|"):
            choices.append(self._sequence())
        self._fold = fold
        return choices[0] if len(choices) == 1 else ("alt", choices, 0, 0)

    def _sequence(self) -> Node:
        parts: list[Node] = []
        while self._peek() not in ("", "|", ")"):
            if self._take("\\Q"):
                parts += [("set", self._folded({char}), 0, 0) for char in self._quoted()]
                continue
            parts.append(self._repeated(self._atom()))
        return ("cat", parts, 0, 0)

    def _quoted(self) -> str:
        end = self._text.find("\\E", self._at)
        quoted = self._text[self._at :] if end < 0 else self._text[self._at : end]
        self._at = len(self._text) if end < 0 else end + 2
        return quoted

    def _repeated(self, node: Node) -> Node:
        simple = {"*": (0, -1), "+": (1, -1), "?": (0, 1)}
        if self._peek() in simple and self._peek():
            low, high = simple[self._next()]
        else:
            counted = self._counted()
            if counted is None:
                return node
            low, high = counted
        self._take("?")
        if self._peek() in ("*", "+", "?") and self._peek():
            raise self._error("two repetitions of one thing")
        return ("rep", node, low, high)

    def _counted(self) -> tuple[int, int] | None:
        end = self._text.find("}", self._at)
        if self._peek() != "{" or end < 0:
            return None
        low, comma, high = self._text[self._at + 1 : end].partition(",")
        if not (low.isascii() and low.isdigit() and (high == "" or (high.isascii() and high.isdigit()))):
            return None
        least = int(low[:6])
        most = (int(high[:6]) if high else -1) if comma else least
        if max(least, most) > REPEAT_MAX or (0 <= most < least):
            raise self._error(f"a repetition must be in order and {REPEAT_MAX} at most")
        self._at = end + 1
        return least, most

    def _atom(self) -> Node:
        char = self._next()
        match char:
            case "(":
                return self._group()
            case "[":
                return ("set", self._class(), 0, 0)
            case ".":
                return ("set", self._alphabet, 0, 0)
            case "^":
                return ("start", None, 0, 0)
            case "$":
                return ("end", None, 0, 0)
            case "*" | "+" | "?":
                raise self._error("nothing to repeat")
            case "\\":
                return self._escaped()
        return ("set", self._folded({char}), 0, 0)

    def _group(self) -> Node:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise self._error(f"groups may be {DEPTH_MAX} deep")
        fold = self._fold
        if self._take("?") and self._opening():
            self._depth -= 1
            return ("cat", [], 0, 0)
        node = self._alternatives()
        if not self._take(")"):
            raise self._error("missing )")
        self._fold = fold
        self._depth -= 1
        return node

    def _opening(self) -> bool:
        """What follows ``(?``; True when that was flags for the rest and no group."""
        if any(self._text.startswith(look, self._at) for look in ("=", "!", "<=", "<!")):
            raise self._error("look-around is not supported")
        if self._take("P<") or self._take("<"):
            end = self._text.find(">", self._at)
            if end < 0 or not self._text[self._at : end].isidentifier():
                raise self._error("a group's name is wrong")
            self._at = end + 1
            return False
        on = True
        while (char := self._next()) not in (":", ")"):
            if char == "-" and on:
                on = False
            elif char == "i":
                self._fold = on
            elif char not in "smU":
                raise self._error(f"(?{char} is not supported")
        return char == ")"

    def _escaped(self) -> Node:
        char = self._next()
        if char.lower() in _CLASSES:
            return ("set", self._known(char), 0, 0)
        if char in "pP":
            return ("set", self._unicode(char == "P"), 0, 0)
        if char in "Az":
            return ("start" if char == "A" else "end", None, 0, 0)
        return ("set", self._folded({self._literal(char)}), 0, 0)

    def _unicode(self, negated: bool) -> frozenset[str]:
        name = self._next()
        if name == "{":
            name, _, _ = self._text[self._at :].partition("}")
            self._at += len(name) + 1
        found = _UNICODE.get(name.removeprefix("^"))
        if found is None:
            raise self._error("an unknown class of characters")
        return self._sided(found, negated != name.startswith("^"))

    def _known(self, char: str) -> frozenset[str]:
        """The class that a letter stands for, a capital for its opposite."""
        return self._sided(_CLASSES[char.lower()], char.isupper())

    def _sided(self, chars: frozenset[str], negated: bool) -> frozenset[str]:
        return self._alphabet - chars if negated else self._alphabet & chars

    def _literal(self, char: str) -> str:
        """The character that an escape stands for."""
        if char == "x":
            digits = self._text[self._at : self._at + 2]
            if self._take("{"):
                digits = self._text[self._at :].partition("}")[0]
                self._at += 1
            self._at += len(digits)
            if not 0 < len(digits) <= 6 or not set(digits) <= set(string.hexdigits) or int(digits, 16) > 0x10FFFF:
                raise self._error("a wrong \\x")
            return chr(int(digits, 16))
        if char in DIGITS and char != "0":
            raise self._error("back references are not supported")
        if char in _CONTROL:
            return _CONTROL[char]
        if char.isalnum():
            raise self._error(f"\\{char} is not supported")
        return char

    def _folded(self, chars: Iterable[str]) -> frozenset[str]:
        found = frozenset(chars)
        return found | {char.swapcase() for char in found} if self._fold else found

    def _class(self) -> frozenset[str]:
        negated = self._take("^")
        found: set[str] = set()
        first = True
        while first or self._peek() != "]":
            first = False
            found |= self._class_item()
        self._at += 1
        chars = self._folded(found)
        return self._alphabet - chars if negated else chars

    def _class_item(self) -> frozenset[str]:
        if self._take("[:"):
            name, closed, _ = self._text[self._at :].partition(":]")
            named = _NAMED.get(name.removeprefix("^"))
            if not closed or named is None:
                raise self._error("an unknown class of characters")
            self._at += len(name) + 2
            return self._sided(named, name.startswith("^"))
        low = self._next()
        if low == "\\":
            low = self._next()
            if low.lower() in _CLASSES:
                return self._known(low)
            low = self._literal(low)
        if self._peek() != "-" or self._text[self._at + 1 : self._at + 2] in ("]", ""):
            return frozenset(low)
        self._at += 1
        high = self._next()
        if high == "\\":
            high = self._literal(self._next())
        if high < low:
            raise self._error("a range in wrong order")
        return frozenset(char for char in self._alphabet if low <= char <= high)


_MATCH, _SPLIT, _SET, _START, _END = range(5)


class _Place(dict[str, "_Place"]):
    """Where the automaton may be after some characters: the places that the next ones lead to, as far as tried."""

    __slots__ = ("accepts", "at")

    def __init__(self, at: frozenset[int]) -> None:
        super().__init__()
        self.at = at
        self.accepts: bool | None = None


class Expression:
    """One compiled expression, over names of topics or over any text.

    :raises Refused: INVALID_REGULAR_EXPRESSION, saying what is wrong and where.
    """

    def __init__(self, text: str, *, of_topics: bool = True) -> None:
        if len(text) > LENGTH_MAX:
            raise _bad(text, f"it has {len(text)} characters and may have {LENGTH_MAX}")
        self.text = text
        self._states: list[tuple[int, frozenset[str], tuple[int, ...]]] = [(_MATCH, LEGAL, ())]
        self._steps = 0
        self._places: dict[frozenset[int], _Place] = {}
        self._alphabet = LEGAL if of_topics else LATIN | frozenset(text) | {OTHER}
        self._wider = not of_topics
        first = self._build(_Parser(text, self._alphabet).parse(), 0)
        self._steps = 0
        self._first = self._closure([first], start=True, end=False)

    @property
    def size(self) -> int:
        """States of the automaton: what it costs to keep."""
        return len(self._states)

    def resolve(self, names: Iterable[str]) -> list[str]:
        """The names that match as a whole, sorted.

        :raises Refused: INVALID_REGULAR_EXPRESSION, when that costs too many steps.
        """
        self._steps = 0
        try:
            return sorted(name for name in names if self.matches(name))
        finally:
            self._places.clear()

    def matches(self, name: str) -> bool:
        """Whether the whole of `name` matches."""
        place = self._place(self._first)
        for char in self._spelt(name):
            following = place.get(char)
            if following is None:
                following = place[char] = self._move(place.at, char)
            place = following
            if not place.at:
                return False
        if not name:
            return 0 in self._closure(list(place.at), start=True, end=True)
        if place.accepts is None:
            place.accepts = 0 in self._closure(list(place.at), start=False, end=True)
        return place.accepts

    def _spelt(self, name: str) -> Iterable[str]:
        """Its characters, as the automaton tells them apart."""
        if not self._wider:
            return name
        return (char if char in self._alphabet else OTHER for char in name)

    def _place(self, at: frozenset[int]) -> _Place:
        found = self._places.get(at)
        if found is None:
            found = self._places[at] = _Place(at)
        return found

    def _move(self, at: frozenset[int], char: str) -> _Place:
        reached = [self._states[state][2][0] for state in at if self._reads(state, char)]
        self._spend(len(at))
        return self._place(self._closure(reached, start=False, end=False))

    def _reads(self, state: int, char: str) -> bool:
        kind, chars, _ = self._states[state]
        return kind == _SET and char in chars

    def _closure(self, waiting: list[int], *, start: bool, end: bool) -> frozenset[int]:
        seen = set(waiting)
        while waiting:
            kind, _, following = self._states[waiting.pop()]
            if kind == _SPLIT or (kind == _START and start) or (kind == _END and end):
                fresh = [state for state in following if state not in seen]
                seen.update(fresh)
                waiting += fresh
        self._spend(len(seen))
        return frozenset(seen)

    def _spend(self, steps: int) -> None:
        self._steps += steps
        if self._steps > STEPS_MAX:
            raise _bad(self.text, "to match it takes too many steps: make it simpler")

    def _add(self, kind: int, chars: frozenset[str], following: tuple[int, ...]) -> int:
        if len(self._states) >= STATES_MAX:
            raise _bad(self.text, "its repetitions are too many: make it simpler")
        self._states.append((kind, chars, following))
        return len(self._states) - 1

    def _build(self, node: Node, then: int) -> int:
        """The first state of `node`, which leads to `then`."""
        self._spend(1)
        kind, what, low, high = node
        if kind == "set":
            assert isinstance(what, frozenset)
            return self._add(_SET, what, (then,))
        if kind in ("start", "end"):
            return self._add(_START if kind == "start" else _END, LEGAL, (then,))
        if kind == "alt":
            assert isinstance(what, list)
            return self._add(_SPLIT, LEGAL, tuple(self._build(each, then) for each in what))
        if kind == "cat":
            assert isinstance(what, list)
            for each in reversed(what):
                then = self._build(each, then)
            return then
        assert isinstance(what, tuple)
        return self._repeat(what, low, high, then)

    def _repeat(self, node: Node, low: int, high: int, then: int) -> int:
        if high < 0:
            loop = self._add(_SPLIT, LEGAL, ())
            self._states[loop] = (_SPLIT, LEGAL, (self._build(node, loop), then))
            then = loop
        else:
            end = then
            for _ in range(high - low):
                then = self._add(_SPLIT, LEGAL, (self._build(node, then), end))
        for _ in range(low):
            then = self._build(node, then)
        return then

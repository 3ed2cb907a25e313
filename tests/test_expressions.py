"""Expressions that clients send: RE2's syntax, over names of topics or any text, and never more than a bounded time."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logd.errors import ErrorCode, Refused
from logd.expressions import Expression

NAMES = ["foo", "foobar", "abab", "aac", "abc", "t-12", "a.b", "a.bcd", "", "z", "abbcd", "ABC", "AbC", "b", "ab", "Ab"]


@pytest.mark.parametrize(
    ("expression", "as_python"),
    [
        ("foo.*", None),
        ("^foo$", None),
        ("(a|b)+c?", None),
        ("[a-f]{2,3}[^x-z]", None),
        ("(?i)ABC", None),
        ("a{0,2}b", None),
        ("t-[[:digit:]]+", "t-[0-9]+"),
        ("t-\\pN+", "t-[0-9]+"),
        ("[[:^lower:]]+", "[^a-z]+"),
        ("\\Qa.b\\E.*", "a\\.b.*"),
        ("", None),
        ("x|y|^z$", None),
        ("a(?:b|c)*?d", None),
        ("(?P<one>a)\\x62", "ab"),
        ("(?:ab){2}", None),
        ("(?i:a)b", None),
        ("\\Aab\\z", "ab"),
        (".*", None),
        ("\\w+", None),
    ],
)
def test_matches_as_a_whole(expression: str, as_python: str | None) -> None:
    """A name matches when all of it does, as Python's own expressions say."""
    compiled = Expression(expression)
    for name in NAMES:
        assert compiled.matches(name) == bool(re.fullmatch(as_python or expression, name)), name


@given(st.from_regex(r"([ab.]|\[[ab]+\]|\((a|b)\))([*+?]|\{[0-3]\})?(\|?[ab]){0,3}", fullmatch=True), st.text("ab"))
def test_matches_like_python(expression: str, name: str) -> None:
    """Random small expressions agree with Python's."""
    assert Expression(expression).matches(name) == bool(re.fullmatch(expression, name))


@pytest.mark.parametrize(
    "expression",
    [
        "(",
        "a)",
        "[a",
        "*a",
        "a**",
        "\\1",
        "(?=a)",
        "(?!a)",
        "(?<!a)b",
        "a{2000}",
        "[z-a]",
        "(?P<1>a)",
        "a{3,2}",
        "\\",
        "[[:foo:]]",
        "\\p{Nope}",
        "(?z)a",
        "x" * 1001,
        "(" * 60 + ")" * 60,
        "((a{100}){100}){100}",
        "((((){1000}){1000}){1000}){1000}",
    ],
)
def test_refused(expression: str) -> None:
    """What RE2 does not take either, and what would grow without bounds, is refused with a reason."""
    with pytest.raises(Refused) as refused:
        Expression(expression)
    assert refused.value.code is ErrorCode.INVALID_REGULAR_EXPRESSION
    assert "can't be used: " in refused.value.message


def test_does_not_explode() -> None:
    """What makes a backtracking engine run for ever is matched in a bounded number of steps."""
    assert not Expression("(a+)+$").matches("a" * 200 + "b")
    assert not Expression("(a|aa)+").matches("a" * 200 + "b")


def test_too_many_steps_are_refused() -> None:
    """An expression that costs too much on the names that there are is refused, not worked through."""
    expression = Expression("(.*a){40}.*(b|c){0,300}(.?x){200}")
    with pytest.raises(Refused, match="too many steps"):
        expression.resolve(f"{index:05b}".replace("0", "a").replace("1", "x") * 40 for index in range(2000))


def test_many_plain_names_cost_little() -> None:
    """Steps are counted for what is new to the automaton: twenty thousand topics are no reason to refuse."""
    names = [f"team-{index % 7}.service-{index:05d}.events" for index in range(20_000)]
    found = Expression("team-[0-5]\\..*\\.(events|commands|audit.*|dead-letters)").resolve(names)
    assert len(found) == sum(index % 7 < 6 for index in range(20_000))


@pytest.mark.parametrize(
    ("pattern", "found"),
    [("^a.*$", ["a/b", "ab", "ab/"]), ("(a.b|c)?", ["a/b"]), ("ab", ["ab"]), (".*b", ["a/b", "ab"])],
)
def test_expressions_over_transactional_ids(pattern: str, found: list[str]) -> None:
    """Ids hold characters that topics lack: wherever one stands, in the middle of a match or behind its end."""
    assert Expression(pattern, of_topics=False).resolve(["a/b", "ab", "ab/"]) == found


TEXTS = ["", "a b", "my app/1", "10.0.0.7", "::1", "gr\u00fcn", "\u65e5\u672c", "a:\u65e5", "\t", "A b"]


@pytest.mark.parametrize(
    "expression",
    [
        ".*",
        "[^:]+",
        "[^ ]*",
        "a\\sb",
        "\\S+",
        "\\W+",
        "[a-z ]+",
        "\u65e5.",
        "[^\u65e5]*",
        "(?i)a b",
        "::1",
        "gr.n",
        "[!-~]+",
    ],
)
def test_over_any_text(expression: str) -> None:
    """Client ids and addresses hold more than topics do: spaces, colons, letters of every script."""
    compiled = Expression(expression, of_topics=False)
    for text in TEXTS:
        assert compiled.matches(text) == bool(re.fullmatch(expression, text, re.ASCII)), text

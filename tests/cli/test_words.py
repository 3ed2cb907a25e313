"""The small languages of the command line: offsets, records as text, rows."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logd.cli import output
from logd.cli.consume import WRITERS
from logd.cli.failures import Failure, show
from logd.cli.output import Thing, escaped, moment, show_rows, show_things
from logd.cli.records import as_field, as_object, compile_format, draft_from_json, draft_from_line
from logd.cli.where import END, OFFSET, RANGE, START, TAIL, TIME, Where, parse_where
from logd.client import Received

NOW_MS = 1_700_000_000_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("start", Where(START)),
        ("end", Where(END)),
        ("0", Where(OFFSET, 0)),
        ("42", Where(OFFSET, 42)),
        ("-10", Where(TAIL, 10)),
        ("100:200", Where(RANGE, 100, 200)),
        (":200", Where(RANGE, 0, 200)),
        ("100:", Where(RANGE, 100, None)),
        ("7:7", Where(RANGE, 7, 7)),
        ("@-1h", Where(TIME, NOW_MS - 3_600_000)),
        ("@-1.5s", Where(TIME, NOW_MS - 1500)),
        ("@-9999w", Where(TIME, 0)),
        ("@1700000000000", Where(TIME, NOW_MS)),
        ("@0", Where(TIME, 0)),
        ("@1969-12-31T23:59:59.999Z", Where(TIME, 0)),
        (f"@-{'9' * 400}w", Where(TIME, 0)),
        ("@2023-11-14T22:13:20Z", Where(TIME, NOW_MS)),
        ("@2023-11-14T22:13:20", Where(TIME, NOW_MS)),
        ("@2023-11-15T00:13:20+02:00", Where(TIME, NOW_MS)),
        ("@-2h:@-1h", Where(TIME, NOW_MS - 7_200_000, NOW_MS - 3_600_000)),
        ("@2023-11-14T22:13:20Z:@2023-11-15T00:13:20+02:00", Where(TIME, NOW_MS, NOW_MS)),
        ("@0:@1700000000000", Where(TIME, 0, NOW_MS)),
    ],
)
def test_where_to_begin(text: str, expected: Where) -> None:
    """Each form means one thing; a time without a zone is UTC."""
    assert parse_where(text, NOW_MS) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "begin",
        "latest",
        "5:3",
        "@",
        "@yesterday",
        "@-1y",
        "--3",
        "1.5",
        "a:b",
        f"@{2**63}",
        "@-1h:@-2h",
        "@-1h:@",
        "@-1h:5",
    ],
)
def test_where_nobody_can_begin(text: str) -> None:
    """What is no offset is refused with a sentence that says how to write one."""
    with pytest.raises(ValueError, match=r"write|mean|ends before|too far"):
        parse_where(text, NOW_MS)


names = st.text(max_size=8)
maybe_bytes = st.none() | st.binary(max_size=20) | st.text(max_size=20).map(str.encode)
received = st.builds(
    Received,
    topic=st.just("t"),
    partition=st.integers(0, 9),
    offset=st.integers(0, 2**62),
    timestamp_ms=st.integers(-1, 2**53),
    append_time=st.booleans(),
    key=maybe_bytes,
    value=maybe_bytes,
    headers=st.lists(st.tuples(names, maybe_bytes), max_size=3),
)


@given(received)
def test_what_consume_prints_produce_takes_back(record: Received) -> None:
    """Key, value, headers, timestamp and partition come back, be they text, bytes or absent."""
    line = msgspec.json.encode(as_object(record))
    assert b"\n" not in line
    draft = draft_from_json(line)
    assert (draft.key, draft.value, list(draft.headers)) == (record.key, record.value, record.headers)
    assert (draft.timestamp_ms, draft.partition) == (record.timestamp_ms, record.partition)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"{", "not JSON"),
        (b"[1]", "no JSON object"),
        (b'{"key": 5}', "key is 5; it must be a string"),
        (b'{"value_base64": "!"}', "not base64"),
        (b'{"value_base64": 5}', "not base64"),
        (b'{"headers": {"a": 5}}', "value is 5; it must be a string"),
        (b'{"headers": "a"}', "headers must be an object"),
        (b'{"partition": 2147483648}', "a whole number from 0 to 2147483647"),
        (b'{"timestamp": -2}', "a whole number from -1 to"),
        (b'{"timestamp": 99999999999999999999}', "a whole number from -1 to"),
        (b'{"headers": [{"value": "b"}]}', "a header's name is None"),
        (b'{"timestamp": "now"}', "timestamp is 'now'; it must be a whole number"),
        (b'{"partition": true}', "it must be a whole number"),
        (b'{"vlaue": "x"}', "unknown field vlaue"),
    ],
)
def test_json_that_is_no_record(line: bytes, why: str) -> None:
    """The field and the value that are wrong are named; nothing is guessed."""
    with pytest.raises(ValueError, match=why):
        draft_from_json(line)


def test_headers_as_people_write_them() -> None:
    """An object of names and values is understood as well as the list that `consume` prints."""
    assert draft_from_json(b'{"headers": {"a": "b", "c": null}}').headers == (("a", b"b"), ("c", None))


def test_lines_with_keys() -> None:
    """The first separator divides key and value; a line without one is refused."""
    assert draft_from_line(b"a:b:c", b":")[:2] == (b"b:c", b"a")
    assert draft_from_line(b"a:b", None)[:2] == (b"a:b", None)
    with pytest.raises(ValueError, match="no key separator"):
        draft_from_line(b"ab", b":")


RECORD = Received("t", 1, 2, 3, False, b"k\xff", None, [("h", b"x"), ("n", None)])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("%t/%p:%o %T\\n", b"t/1:2 3\n"),
        ("%k %K %v %S", b"k\xff 2  -1"),
        ("%h", b"h=x,n="),
        ("100%%\\t\\\\n\\x\\", b"100%\t\\n\\x\\"),
        ("plain", b"plain"),
    ],
)
def test_formats(text: str, expected: bytes) -> None:
    """Tokens as kcat has them; the bytes of keys and values go out as they are."""
    assert compile_format(text)(RECORD) == expected


@pytest.mark.parametrize("text", ["%", "%q", "a%"])
def test_formats_that_mean_nothing(text: str) -> None:
    """An unknown token is refused, and the known ones are listed."""
    with pytest.raises(ValueError, match="means nothing here"):
        compile_format(text)


@given(st.text(max_size=20))
def test_a_field_never_breaks_its_line(text: str) -> None:
    """Text as a field holds neither tab nor line end, and can be told apart from every other text."""
    field = escaped(text)
    assert not set("\t\n\r") & set(field)
    assert (
        field.replace("\\\\", "\0").replace("\\t", "\t").replace("\\n", "\n").replace("\\r", "\r").replace("\0", "\\")
        == text
        or "\0" in text
    )
    assert as_field(text.encode()) == field


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are drawn for a terminal of 40 columns."""
    monkeypatch.setattr(output, "is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")


@pytest.mark.usefixtures("terminal")
def test_a_table_that_does_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    """In a narrow terminal numbers are never broken: each row becomes a block of lines."""
    show_rows("table", ("group", "topic", "partition", "committed", "lag"), [("g", "t" * 50, 0, 1234567, None)])
    assert capsys.readouterr().out == f"\ngroup      g\ntopic      {'t' * 50}\npartition  0\ncommitted  1234567\n"
    show_rows("table", ("group", "lag"), [("a" * 50, 1234567)])
    shown = capsys.readouterr().out
    assert "1234567" in shown
    assert max(map(len, shown.splitlines())) <= 40


@pytest.mark.parametrize("width", range(79, 100))
def test_a_table_that_fits_just_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    """No digit is cut off at the right edge: what there is too much of is taken from texts and from heads."""
    monkeypatch.setattr(output, "PIPE_WIDTH", width)
    columns = ("topic", "partition", "leader", "epoch", "replicas", "in_sync", "start", "end", "records")
    show_rows("table", columns, [("orders-1", 0, 0, 0, [0], [0], 0, 67, 1234567), ("o", 1, 0, 0, [0], [0], 0, 67, 8)])
    shown = capsys.readouterr().out
    assert "1234567\n" in shown.replace(" \n", "\n")
    assert all(len(line) <= width for line in shown.splitlines())


def test_a_table_of_wide_characters(capsys: pytest.CaptureFixture[str]) -> None:
    """Characters that take two columns of a terminal are given two: the text is not folded where there is room."""
    show_rows("table", ("group", "members"), [("\u65e5\u672c\u8a9e\u306e\u30b0\u30eb\u30fc\u30d7", 3)])
    assert "\u65e5\u672c\u8a9e\u306e\u30b0\u30eb\u30fc\u30d7" in capsys.readouterr().out


def test_times_of_a_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A time in a table is shorter, and is folded between day and hour if it has to be."""
    monkeypatch.setattr(output, "PIPE_WIDTH", 50)
    show_rows("table", ("time", "what"), [(moment(NOW_MS + 7), "it " * 20)])
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines()[3:5]] == ["2023-11-14", "22:13:20.007Z"]
    show_rows("tsv", ("time", "what"), [(moment(NOW_MS + 7), "it")])
    assert capsys.readouterr().out == "2023-11-14T22:13:20.007+00:00\tit\n"


def test_an_empty_table_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """Where there is nothing to show, one line says what there is none of, and stdout stays empty."""
    show_rows("table", ("transactional_id", "state"), [])
    assert capsys.readouterr() == ("", "no transactional ids\n")


def test_names_once(capsys: pytest.CaptureFixture[str]) -> None:
    """`-o name` gives each name once, though it has several rows, of the column that holds it."""
    show_rows("name", ("kind", "name"), [("topic", "a"), ("topic", "a"), ("topic", "b")], name=1)
    assert capsys.readouterr().out == "a\nb\n"


def test_a_table_does_nothing_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Control characters of names and records are shown as text, in tables, in fields, in records and in errors."""
    bad = "\x1b[2J\x07\u202e"
    record = Received("t", 1, 2, 3, False, bad.encode(), bad.encode(), [(bad, bad.encode())])
    show_rows("table", ("name",), [(bad,)])
    show_things("table", [Thing({"name": bad}, ())])
    show(Failure(bad, bad, bad))
    shown = "".join(capsys.readouterr()) + WRITERS["table"](record).decode()
    assert not set(bad[:1] + bad[-2:]) & set(shown)
    assert shown.count("\\x1b[2J\\x07\\u202e") == 9


@pytest.mark.parametrize("time_ms", [1_764_526_000_000_000, (1 << 63) - 1])
def test_times_that_no_calendar_has(time_ms: int) -> None:
    """A producer may put down anything for a time, microseconds for instance: it is shown as `--offset` takes it."""
    record = Received("t", 1, 2, time_ms, False, b"k", b"v", [])
    assert WRITERS["table"](record).decode().split() == [f"@{time_ms}", "t/1:2", "k", "v"]
    assert parse_where(moment(time_ms), NOW_MS) == Where(TIME, time_ms)
    assert moment(NOW_MS + 7) == "2023-11-14T22:13:20.007+00:00"


def test_rows_in_every_form(capsys: pytest.CaptureFixture[str]) -> None:
    """The same rows as lines, names, JSON, and a table whose text is never taken for markup."""
    columns, rows = ("name", "many", "flag", "none"), [("[red]a", [1, 2], True, None)]
    shown = {}
    for form in ("tsv", "name", "json", "jsonl", "table"):
        show_rows(form, columns, rows)
        shown[form] = capsys.readouterr().out
    assert shown["tsv"] == "[red]a\t1,2\tyes\t\n"
    assert shown["name"] == "[red]a\n"
    expected = {"name": "[red]a", "many": [1, 2], "flag": True, "none": None}
    assert msgspec.json.decode(shown["json"]) == [expected]
    assert msgspec.json.decode(shown["jsonl"]) == expected
    assert "[red]a" in shown["table"]
    assert "\x1b" not in shown["table"]

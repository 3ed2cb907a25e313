"""The house style, as far as a program can see it. docs/style.md says why; no rule has a list of exceptions."""

from __future__ import annotations

import ast
import re
import subprocess
from collections import Counter

import pytest

from tests.sources import ROOT, Source, generated, package, sources

LINES_MAX = 700
FUNCTION_LINES_MAX = 70
VAGUE = re.compile(r"(^|_)(utils?|helpers?|common|managers?|impl|misc)(_|$)")
# Where a task must survive somebody else's bug: a connection, a step of a job, a node under the supervisor.
BARRIERS = (
    "logd/doors/",
    "logd/jobs/",
    "logd/partitions/runs.py",
    "logd/coordinators/timer.py",
    "logd/supervisor.py",
)
# What people and pytest start, and what is imported by name: the tables of schemas and of commands.
STARTED = {"logd.cli.server", "logd.cli.main", "logd.testing.plugin", "logd.__main__"}
# The parts that may ask what time it is: the node hands a Clock down to all the others.
ABOVE_THE_CLOCK = ("logd/node.py", "logd/cli/", "logd/testing/", "logd/supervisor.py", "logd/client/clock.py")
# The client is a library for other programs too, and jitters its retries by itself.
FACING_OUT = ("logd/client/",)
CLOCK_READS = {"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time"}
MACHINE_PATH = re.compile(r"(?<![\w.])/(work|root|home/[a-z]\w*|Users/\w+)/|\.\./shared")


def report(broken: list[str]) -> None:
    """Fail with one line for each broken rule."""
    if broken:
        pytest.fail("\n".join(broken), pytrace=False)


def test_modules_are_short() -> None:
    """No module is longer than 700 lines, generated ones aside."""
    lengths = {source.path: source.text.count("\n") for source in sources() if not generated(source)}
    report([f"{path}: {lines} lines, {LINES_MAX} at most" for path, lines in lengths.items() if lines > LINES_MAX])


def test_functions_are_short() -> None:
    """No function of logd is longer than 70 lines."""
    broken = []
    for source in package():
        for node in ast.walk(source.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES_MAX:
                    broken.append(f"{source.path}:{node.lineno}: {node.name} has {lines} lines")
    report(broken)


def test_modules_say_what_they_are() -> None:
    """Every module that holds something begins with a docstring."""
    report([f"{source.path}: no docstring" for source in sources() if source.tree.body and not docstring(source)])


def docstring(source: Source) -> str | None:
    """The module's docstring."""
    return ast.get_docstring(source.tree)


def test_modules_are_imported() -> None:
    """Every module of logd is imported by another one, or started by somebody."""
    wanted: set[str] = set()
    for source in package():
        wanted.update(name for name in source.imports() if name != source.module)
        wanted.update(named_in_tables(source))
    broken = [
        f"{source.path}: nobody imports {source.module}"
        for source in package()
        if not source.path.endswith("__init__.py") and not generated(source) and source.module not in wanted | STARTED
    ]
    report(broken)


def named_in_tables(source: Source) -> set[str]:
    """Modules of logd that the file names in strings, to import them when they are needed.

    Dotted names count, up to a colon; in a package's own file the bare names of its modules count too.
    """
    constants = [node.value for node in ast.walk(source.tree) if isinstance(node, ast.Constant)]
    strings = [value for value in constants if isinstance(value, str)]
    named = {value.partition(":")[0] for value in strings if value.startswith("logd.")}
    if source.path.endswith("__init__.py"):
        named.update(f"{source.module}.{value}" for value in strings)
    return named


def test_names_say_something() -> None:
    """No module and no class is called after nothing in particular."""
    broken = [f"{source.path}: a vague name" for source in sources() if VAGUE.search(source.module.rpartition(".")[2])]
    for source in package():
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ClassDef) and re.search(r"(Utils?|Helpers?|Manager|Impl)$", node.name):
                broken.append(f"{source.path}:{node.lineno}: class {node.name} has a vague name")
    report(broken)


def test_errors_are_named() -> None:
    """`except Exception` stands only at a barrier: a connection, a job step, the supervisor; bare `except` nowhere."""
    broken = []
    for source in package():
        for node in ast.walk(source.tree):
            if not (isinstance(node, ast.ExceptHandler) and catches_everything(node)):
                continue
            if node.type is None or not source.path.startswith(BARRIERS):
                broken.append(f"{source.path}:{node.lineno}: catches everything; name the errors")
    report(broken)


def catches_everything(handler: ast.ExceptHandler) -> bool:
    """True for `except:` and for `except Exception`, alone or in a tuple, when it does not raise again."""
    raises_again = any(isinstance(node, ast.Raise) and node.exc is None for node in handler.body)
    if raises_again:
        return False
    named = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(each is None or (isinstance(each, ast.Name) and each.id == "Exception") for each in named)


def test_the_clock_is_handed_down() -> None:
    """Below the node nothing reads a clock or draws a random number: both arrive as arguments."""
    broken = []
    for source in package():
        if source.path.startswith(ABOVE_THE_CLOCK):
            continue
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                if node.value.id == "time" and node.attr in CLOCK_READS:
                    broken.append(f"{source.path}:{node.lineno}: reads time.{node.attr}")
                if node.value.id == "random" and not source.path.startswith(FACING_OUT):
                    broken.append(f"{source.path}:{node.lineno}: uses random.{node.attr}")
            if isinstance(node, ast.ImportFrom) and node.module in ("time", "random"):
                broken.append(f"{source.path}:{node.lineno}: imports from {node.module}")
    report(broken)


def test_no_paths_of_a_machine() -> None:
    """No file names a place that exists on one machine only."""
    broken = []
    for path in tracked():
        text = (ROOT / path).read_text(errors="replace")
        broken += [
            f"{path}:{number}: {line.strip()}"
            for number, line in enumerate(text.split("\n"), 1)
            if MACHINE_PATH.search(line) and "MACHINE_PATH" not in line
        ]
    report(broken)


def tracked() -> list[str]:
    """The files in version control, or those that look like it where there is none."""
    try:
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return [source.path for source in sources()]
    return [path for path in listed.splitlines() if (ROOT / path).is_file()]


def test_tests_state_what_they_prove() -> None:
    """Every test has a docstring that states the behaviour, and no two tests of a file share a name."""
    broken = []
    for source in sources():
        if not source.path.startswith("tests/"):
            continue
        tests = [
            node
            for node in ast.walk(source.tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
        ]
        broken += [
            f"{source.path}:{node.lineno}: {node.name} states nothing" for node in tests if not ast.get_docstring(node)
        ]
    report(broken)


def test_nothing_is_left_open() -> None:
    """What is to be done stands in the changelog or an issue, and no test is expected to fail."""
    words = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
    counts: Counter[str] = Counter()
    for source in sources():
        counts[source.path] += len(words.findall(source.text)) + source.text.count("mark." + "xfail")
    report([f"{path}: {count} left open" for path, count in counts.items() if count])

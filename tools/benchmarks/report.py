"""Turns the runner's raw results into ratios, one table and one JSON document.

Owns the arithmetic of ratios: system divided by reference within one round, then the median and the spread of the
rounds. PURE. Called by the command line once, at the end.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tools.benchmarks.figures import DISK, FIGURES, Figure
from tools.benchmarks.loads import Metrics
from tools.benchmarks.runner import Results


@dataclass(frozen=True, slots=True)
class Ratio:
    """A system against the reference: median, lowest and highest of the rounds that both finished."""

    median: float
    low: float
    high: float
    rounds: int

    def covers_one(self) -> bool:
        """Whether equal is within the spread: what a self-check wants."""
        return self.low <= 1.0 <= self.high


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: medians by system, and the ratio of every system but the reference."""

    figure: Figure
    medians: Mapping[str, float]
    ratios: Mapping[str, Ratio]


def _ratio(reference: Sequence[Metrics], other: Sequence[Metrics], metric: str) -> Ratio | None:
    base = {each["round"]: each[metric] for each in reference if each.get(metric)}
    found = [each[metric] / base[each["round"]] for each in other if each["round"] in base and metric in each]
    return Ratio(statistics.median(found), min(found), max(found), len(found)) if found else None


def _memory_rows(results: Results, figure: Figure) -> dict[str, list[Metrics]]:
    taken = results.rss_anon_bytes.get(DISK, {})
    return {label: [{"round": 0, figure.metric: size / (1 << 20)}] for label, size in taken.items()}


def rows(results: Results, reference: str) -> list[Row]:
    """A row for each figure of which at least one system has a value."""
    table = []
    for figure in FIGURES:
        by_system = results.rounds.get(f"{figure.load}.{figure.stage}", {})
        if figure.load == "memory":
            by_system = _memory_rows(results, figure)
        values = {label: [each[figure.metric] for each in taken] for label, taken in by_system.items() if taken}
        if not values:
            continue
        ratios = {}
        for label in values:
            ratio = _ratio(by_system.get(reference, []), by_system[label], figure.metric)
            if label != reference and ratio is not None:
                ratios[label] = ratio
        table.append(Row(figure, {label: statistics.median(each) for label, each in values.items()}, ratios))
    return table


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _verdict(row: Row, subject: str) -> str:
    if row.figure.of_itself:
        reached = row.figure.reached(row.medians[subject]) if subject in row.medians else None
    else:
        ratio = row.ratios.get(subject)
        reached = row.figure.reached(ratio.median) if ratio else None
    return "" if reached is None else ("reached" if reached else "short")


def _goal(figure: Figure, sign: str) -> str:
    if figure.reach is None:
        return ""
    return f"{sign} {figure.reach:g}" + ("" if figure.moonshot is None else f" / {figure.moonshot:g}")


def _cells(row: Row, reference: str, others: Sequence[str]) -> list[str]:
    figure = row.figure
    cells = [figure.title, figure.unit, _number(row.medians[reference]) if reference in row.medians else "-"]
    for label in others:
        ratio = row.ratios.get(label)
        cells.append(_number(row.medians[label]) if label in row.medians else "-")
        cells.append(f"{ratio.median:.2f} ({ratio.low:.2f}..{ratio.high:.2f})" if ratio else "-")
    sign = ">=" if figure.higher_is_better else "<="
    cells.append(_goal(figure, sign))
    return cells


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Columns padded to their widest cell; the first is flush left, the others flush right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _replaced(results: Results, systems: Sequence[str]) -> str:
    """How many Java producers failed by a race of their own, in all rounds; "" for a bench without transactions."""
    sums: dict[str, int] = {}
    for by_system in results.rounds.values():
        for label, taken in by_system.items():
            for each in taken:
                if "replaced" in each:
                    sums[label] = sums.get(label, 0) + int(each["replaced"])
    told = ", ".join(f"{label} {sums[label]}" for label in systems if label in sums)
    return f"\n\nJava producers replaced after a race of their own (InvalidTxnStateException): {told}" if told else ""


def table(results: Results, systems: Sequence[str]) -> str:
    """The table as text: the first system is the reference, the second the one that has goals to reach."""
    reference, others = systems[0], systems[1:]
    header = ["figure", "unit", reference]
    for label in others:
        header += [label, f"{label}/{reference}"]
    lines = [[*header, "goal / moonshot", ""]]
    subject = others[0] if others else reference
    lines += [[*_cells(row, reference, others), _verdict(row, subject)] for row in rows(results, reference)]
    text = aligned(lines) + _replaced(results, systems)
    if results.failures:
        text += "\n\nfailed:\n" + "\n".join(
            f"  {where}: {problem.strip().splitlines()[-1][:200]}" for where, problem in results.failures.items()
        )
    return text


def document(results: Results, systems: Sequence[str]) -> dict[str, Any]:
    """Everything, for the JSON beside the table."""
    reference = systems[0] if systems else ""
    figures = {
        row.figure.key: {
            "title": row.figure.title,
            "unit": row.figure.unit,
            "reach": row.figure.reach,
            "moonshot": row.figure.moonshot,
            "median": dict(row.medians),
            "ratio": {
                label: {"median": each.median, "low": each.low, "high": each.high, "rounds": each.rounds}
                for label, each in row.ratios.items()
            },
        }
        for row in rows(results, reference)
    }
    return {
        "systems": list(systems),
        "figures": figures,
        "failures": results.failures,
        "idle_cores": results.idle_cores,
        "rss_anon_bytes": results.rss_anon_bytes,
        "rounds": results.rounds,
        "interrupted": results.interrupted,
    }

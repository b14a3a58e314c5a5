"""The table of a run, for a terminal and for docs/benchmarks/failover.md."""

from __future__ import annotations

from collections.abc import Sequence

from tests.lan.chaos.judging import Outcome
from tests.lan.chaos.stage import VIOLATIONS_SHOWN_MAX, Result

COLUMNS = (
    *("scenario", "requests", "complete", "retried", "continued", "refused", "clean errors", "gateway gone"),
    *(
        "violations",
        "longest stream pause s",
        "longest leaderless s",
        "whole again s",
        "agents' loop lag s",
        "timer lag s",
    ),
)
_OUTCOMES = (
    *(Outcome.COMPLETE, Outcome.RETRIED, Outcome.CONTINUED, Outcome.REFUSED),
    *(Outcome.CLEAN_ERROR, Outcome.GATEWAY_GONE),
)


def row(result: Result) -> list[str]:
    """In the order of COLUMNS."""
    leaderless = "-" if result.leaderless_s is None else f"{result.leaderless_s:.2f}"
    return [
        result.scenario.name,
        str(result.requests),
        *(str(result.outcomes[outcome]) for outcome in _OUTCOMES),
        str(len(result.violations)),
        f"{result.pause_s:.2f}",
        leaderless,
        f"{result.whole_s:.2f}",
        "-" if result.agents_lag_s is None else f"<={result.agents_lag_s:g}",
        f"{result.lag_s:.2f}",
    ]


def table(results: Sequence[Result]) -> str:
    """Markdown that is readable as it is."""
    rows = [list(COLUMNS), *(row(result) for result in results)]
    widths = [max(len(cells[i]) for cells in rows) for i in range(len(COLUMNS))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |" for cells in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def violations(results: Sequence[Result]) -> str:
    """What went wrong, by scenario and seed; empty if nothing did."""
    lines = []
    for result in results:
        for text in result.violations[:VIOLATIONS_SHOWN_MAX]:
            lines.append(f"{result.scenario.name} (seed {result.seed}): {text}")
        if len(result.violations) > VIOLATIONS_SHOWN_MAX:
            lines.append(f"{result.scenario.name}: ... and {len(result.violations) - VIOLATIONS_SHOWN_MAX} more")
    return "\n".join(lines)


def pauses(results: Sequence[Result], from_s: float = 1.0) -> str:
    """Whose the longest pauses are."""
    return "\n".join(f"{r.scenario.name}: {r.pause_s:.2f} s: {r.pause_of}" for r in results if r.pause_s >= from_s)


def clean_errors(results: Sequence[Result]) -> str:
    """Which answers ended in a clean error, and why."""
    lines = []
    for result in results:
        for text, count in result.clean_errors.most_common(VIOLATIONS_SHOWN_MAX):
            lines.append(f"{result.scenario.name}: {count} x {text}")
    return "\n".join(lines)


def parted(results: Sequence[Result]) -> str:
    """How many answers of a real model were none of the undisturbed texts, yet sound."""
    return "\n".join(
        f"{r.scenario.name}: {r.parted} of {r.requests} parted where the model was undecided"
        for r in results
        if r.parted
    )

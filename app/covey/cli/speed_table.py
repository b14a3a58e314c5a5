"""How measured speeds look to a person. Input: the JSON of the agent's route of speeds.

A length or batch a line, so that 80 columns hold a row and names stay whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

Json = Mapping[str, Any]

LENGTHS_SHOWN = 3
SLOWER_SHOWN = 1.05
TITLES = ("MODEL", "MACHINE", "PROMPT TOKENS/S BY LENGTH", "MS A STEP BY BATCH", "LOAD", "FROM", "SURE", "AGE")


def speeds_table(content: Json) -> RenderableType:
    """One row a model and machine."""
    rows = content["speeds"]
    if not rows:
        return Text("no machine of the pool offers a model; `covey ps` shows what there is")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in TITLES:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*_row(row))
    if any(step["measured"] is False for row in rows for step in row["steps"]):
        return Group(table, Text("~ worked out: not measured at that batch size", style="dim"))
    return table


def _row(row: Json) -> tuple[RenderableType, ...]:
    name = Text(row["name"])
    if not row["reachable"]:
        name.append(" silent", style="red")
    elif row["state"] != "ready":
        name.append(f" {row['state']}", style="yellow")
    model = escape(row["model"]) + (" [magenta](simulated)" if row["engine"] == "simulated" else "")
    load = f"{row['load_s']:.1f} s" if row["load_s"] else "-"
    confidence = f"{round(100 * row['confidence'])} %" if row["observations"] else "-"
    source = Text(row["source"], style="yellow" if row["source"] == "prior" else "")
    return model, name, _prefill(row), _steps(row), load, source, confidence, _age(row["age_s"])


def _prefill(row: Json) -> Text:
    """The shortest, the longest and one between."""
    points = few(row["prefill"])
    if not points:
        return Text(f"~{row['prefill_tokens_per_s']:.0f}")
    text = Text("\n".join(f"{_count(tokens)}: {speed:.0f}" for tokens, speed in points))
    return text.append(_slower(row), style="red")


def _steps(row: Json) -> Text:
    if not row["steps"]:
        return Text("-")
    parts = [f"{s['batch']}: {'' if s['measured'] else '~'}{s['step_ms']:.1f}" for s in row["steps"]]
    return Text("\n".join(parts))


def _slower(row: Json) -> str:
    return f"\n{row['slower']:.1f} times slower now" if row["slower"] > SLOWER_SHOWN else ""


def few(points: Sequence[Any]) -> list[Any]:
    """At most LENGTHS_SHOWN of them, the first and the last among them."""
    if len(points) <= LENGTHS_SHOWN:
        return list(points)
    gaps = LENGTHS_SHOWN - 1
    return [points[round(place * (len(points) - 1) / gaps)] for place in range(LENGTHS_SHOWN)]


def _count(tokens: int) -> str:
    return f"{tokens}" if tokens < 1000 else f"{tokens / 1000:.1f}k"


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    for limit, divisor, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / divisor:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"

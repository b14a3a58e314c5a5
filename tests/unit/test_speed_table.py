"""Rows of `covey speeds`: measured where it was measured, expected elsewhere, and said which."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console
from tests.support.scheduling import MODEL, member, model_load, node, view

from covey.cli.speed_table import few, speeds_table
from covey_gateway.core.speed_table import PRIOR, plain_rows, speed_table, steps
from covey_gateway.io.pool_metrics import PoolCollector
from covey_mesh.core.facts import ModelLoad, PoolView, Task
from covey_mesh.core.speeds import LEARNED, DecodePoint, ModelSpeeds, PrefillPoint

SPEEDS = ModelSpeeds(
    prefill=(PrefillPoint(30, 500.0), PrefillPoint(1000, 2000.0)),
    decode=(DecodePoint(1, 100, 0.01), DecodePoint(6, 100, 0.02)),
    batch_slowdown=0.2,
    load_s=12.0,
    source=LEARNED,
    confidence=0.8,
    observations=40,
    spread=0.1,
    measured_unix_s=1000.0,
)
UNMEASURED = model_load(prefill_tokens_per_s=0.0, decode_tokens_per_s=0.0)


def pool(*loads: ModelLoad) -> PoolView:
    return view(*(member(node(number), load) for number, load in enumerate(loads, 1)))


def test_measured_and_expected_side_by_side() -> None:
    first, second = speed_table(pool(model_load(speeds=SPEEDS), UNMEASURED), 1060.0)
    assert (first.source, first.age_s, first.load_s, first.confidence) == (LEARNED, 60.0, 12.0, 0.8)
    assert (first.prefill, first.slower) == (((30, 500.0), (1000, 2000.0)), 1.0)
    assert (second.source, second.age_s, second.prefill) == (PRIOR, None, ())
    # The prior is scaled by what the first machine measured: they are alike.
    assert second.prefill_tokens_per_s == pytest.approx(first.prefill_tokens_per_s)
    assert all(not step.measured for step in second.steps)


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        (SPEEDS.decode, [(1, 10.0, True), (8, 24.0, True), (32, 72.0, False)]),
        (SPEEDS.decode[:1], [(1, 10.0, True), (8, 24.0, False), (32, 72.0, False)]),
        ((DecodePoint(0, 0, 0.0),), []),
        ((), []),
    ],
)
def test_steps(points: tuple[DecodePoint, ...], expected: list[tuple[int, float, bool]]) -> None:
    found = steps(model_load(speeds=replace(SPEEDS, decode=points)))
    assert [(s.batch, pytest.approx(s.step_ms), s.measured) for s in found] == expected


def test_steps_of_a_machine_that_measured_nothing_are_worked_out() -> None:
    found = steps(UNMEASURED, 100.0)
    assert [round(step.step_ms, 1) for step in found] == [10.0, 14.9, 31.7]


def test_a_machine_that_is_slow_now_says_so() -> None:
    (row,) = speed_table(pool(model_load(speeds=replace(SPEEDS, decode_factor=3.0))), 0.0)
    assert (row.slower, row.age_s) == (3.0, 0.0)
    assert "3.0 times slower now" in drawn([row])


def test_an_embedding_model_has_no_steps() -> None:
    (row,) = speed_table(pool(model_load(task=Task.EMBED, speeds=SPEEDS)), 0.0)
    assert (row.steps, row.decode, row.decode_tokens_per_s) == ((), (), 0.0)


def test_one_model_of_several() -> None:
    both = view(member(node(1), model_load(), model_load(model="other")))
    assert [row.model for row in speed_table(both, 0.0)] == ["other", MODEL]
    assert [row.model for row in speed_table(both, 0.0, "other")] == ["other"]
    assert speed_table(both, 0.0, "none") == []


@pytest.mark.parametrize("lie", [math.nan, math.inf, -1.0, 1e308, 0.0])
def test_a_lying_machine_makes_no_row_that_is_not_a_number(lie: float) -> None:
    lying = replace(SPEEDS, batch_slowdown=lie)
    rows = speed_table(pool(model_load(speeds=lying, prefill_tokens_per_s=lie, decode_tokens_per_s=lie)), 1000.0)
    assert all(math.isfinite(step.step_ms) for step in rows[0].steps)
    assert math.isfinite(rows[0].prefill_tokens_per_s)


def drawn(rows: list[Any]) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(speeds_table(json.loads(json.dumps({"speeds": plain_rows(rows)}))))
    return capture.get()


def test_what_people_see() -> None:
    text = drawn(speed_table(pool(model_load(speeds=SPEEDS), UNMEASURED), 1060.0))
    for cell in ("30: 500 ", "1.0k: 2000 ", " 1: 10.0 ", " 8: 24.0 ", " 32: ~72.0 "):
        assert cell in text, "a line each: a row fits 80 columns"
    assert "12.0 s" in text
    assert "80 %" in text
    assert "60 s" in text
    assert "prior" in text
    assert "~ worked out" in text
    assert "offers a model" in drawn([])


@pytest.mark.parametrize(("length", "expected"), [(0, []), (2, [0, 1]), (3, [0, 1, 2]), (8, [0, 4, 7])])
def test_few(length: int, expected: list[int]) -> None:
    assert few(list(range(length))) == expected


def test_metrics_of_speed() -> None:
    slow = replace(SPEEDS, prefill_factor=2.0)
    collector = PoolCollector(lambda: pool(model_load(speeds=slow), UNMEASURED), dict)
    families = {family.name: family.samples for family in collector.collect()}
    batches = [(s.labels["batch"], s.value) for s in families["covey_model_decode_step_seconds"]]
    assert batches == [("1", pytest.approx(0.01)), ("8", pytest.approx(0.024)), ("32", pytest.approx(0.072))]
    assert [s.value for s in families["covey_model_slowdown_ratio"]] == [2.0, 1.0]
    assert [s.value for s in families["covey_model_speed_confidence"]] == [0.8, 0.0]
    assert [s.value for s in families["covey_model_load_seconds"]] == [12.0, 0.0]

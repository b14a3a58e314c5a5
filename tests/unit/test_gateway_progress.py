"""How long silence is borne, as a table, and the circuit of who stays silent."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from covey_gateway.core.circuit import CIRCUITS_MAX, PAUSE_FIRST_S, PAUSE_MAX_S, WINDOW_S, CircuitBreaker
from covey_gateway.core.progress import Work, pace_of
from covey_mesh.core.facts import EngineState, ModelLoad, Task
from covey_mesh.core.names import NodeId
from covey_mesh.core.silence import FLOOR_S, TOKENS_A_TOOL_CALL

A, B = NodeId("a" * 32), NodeId("b" * 32)
STREAM = Work(prompt_tokens=1000, answer_tokens_most=0, streaming=True)


def load(prefill: float = 2048.0, decode: float = 100.0, queued: int = 0, running: int = 0) -> ModelLoad:
    return ModelLoad(
        "m", EngineState.READY, "vllm", Task.GENERATE, 4096, running, queued_tokens=queued,
        prefill_tokens_per_s=prefill, decode_tokens_per_s=decode,
    )  # fmt: skip


def embedder(prefill: float = 2048.0, queued_prompts: int = 0) -> ModelLoad:
    return replace(load(prefill, 0.0, queued_prompts), task=Task.EMBED, queued_prompt_tokens=queued_prompts)


@pytest.mark.parametrize(
    ("reported", "work", "first_s", "gap_s"),
    [
        # 2 + 4 (prompt / prefill), and 2 + 4 (16 / decode): nothing else is queued there
        (load(), STREAM, 2 + 4 * (1000 / 2048), 2 + 4 * 0.16),
        (load(prefill=20_480), STREAM, 2 + 4 * (1000 / 20_480), 2 + 4 * 0.16),
        (load(decode=10), STREAM, 2 + 4 * (1000 / 2048), 2 + 4 * 1.6),
        # what is queued there comes first: all of it before the first token, a step's prompts between two
        (load(queued=3000, running=3), STREAM, 2 + 4 * (1000 / 2048 + 1 + 10), 2 + 4 * (0.16 + 1)),
        (load(queued=512), STREAM, 2 + 4 * (1000 / 2048 + 0.25 + 5.12), 2 + 4 * (0.16 + 0.25)),
        # an answer in one piece comes when all of it is written: the client's bound, else the context
        (load(), Work(1000, 400, False), 2 + 4 * (1000 / 2048 + 4), 2 + 4 * 0.16),
        (load(), Work(1000, 0, False), 2 + 4 * (1000 / 2048 + 40.96), 2 + 4 * 0.16),
        # a tool call may be held back until it is whole
        (load(), Work(1000, 0, True, TOKENS_A_TOOL_CALL), 2 + 4 * (1000 / 2048), 2 + 4 * 5.12),
        # an embedding has no answer to write: its own inputs, and those of others before it
        (embedder(), Work(10_000, 0, False), 2 + 4 * (10_000 / 2048), 2 + 4 * 1),
        (embedder(queued_prompts=4096), Work(2048, 0, False), 2 + 4 * 3, 2 + 4 * 1),
        (embedder(prefill=0), Work(100, 0, False), 2 + 4 * 0.5, 2 + 4 * 10.24),
        # nothing measured yet: what the slowest useful machine would need
        (load(prefill=0, decode=0), STREAM, 2 + 4 * 5, 2 + 4 * 8),
        (None, STREAM, 2 + 4 * (5 + 10.24), 2 + 4 * (8 + 10.24)),
        (None, Work(1, 0, False), 2 + 4 * (0.005 + 10.24 + 32_768 / 2), 2 + 4 * (8 + 10.24)),
    ],
)
def test_pace(reported: ModelLoad | None, work: Work, first_s: float, gap_s: float) -> None:
    pace = pace_of(reported, work)
    assert pace.first_s == pytest.approx(first_s)
    assert pace.gap_s == pytest.approx(gap_s)
    assert min(pace.first_s, pace.gap_s) > FLOOR_S


# --- the circuit -----------------------------------------------------------------------------------------------------


def opened() -> CircuitBreaker:
    breaker = CircuitBreaker()
    assert not breaker.stalled(0.0, A, "m")
    assert breaker.excluded(0.0, "m") == {}
    assert breaker.stalled(1.0, A, "m")
    return breaker


def test_two_stalls_open_it_for_that_model_only() -> None:
    breaker = opened()
    assert breaker.excluded(1.0, "m") == {A: "its answers stalled; tried again in 5 s"}
    assert breaker.excluded(1.0, "other") == {}
    assert not breaker.stalled(1.5, A, "m"), "open already"
    assert not breaker.stalled(1.0, B, "m")


def test_old_stalls_do_not_count() -> None:
    breaker = CircuitBreaker()
    assert not breaker.stalled(0.0, A, "m")
    assert not breaker.stalled(WINDOW_S, A, "m")
    assert breaker.stalled(WINDOW_S + 1, A, "m")


def test_one_request_probes_and_its_byte_closes_it() -> None:
    breaker = opened()
    now_s = 1.0 + PAUSE_FIRST_S
    assert breaker.excluded(now_s, "m") == {}
    breaker.opened(now_s, A, "m")
    assert breaker.excluded(now_s, "m") == {A: "its answers stalled; one request is trying it"}
    breaker.answered(A, "m")
    assert breaker.excluded(now_s, "m") == {}
    assert not breaker.stalled(now_s, A, "m"), "it starts anew"


def test_a_probe_that_stalls_doubles_the_pause_up_to_a_bound() -> None:
    breaker = opened()
    now_s, pauses = 1.0 + PAUSE_FIRST_S, []
    for _ in range(7):
        breaker.opened(now_s, A, "m")
        assert breaker.stalled(now_s, A, "m")
        pause_s = next(p / 10 for p in range(1, 10_000) if not breaker.excluded(now_s + p / 10, "m"))
        pauses.append(pause_s)
        now_s += pause_s
    assert pauses == [10, 20, 40, 80, PAUSE_MAX_S, PAUSE_MAX_S, PAUSE_MAX_S]


def test_a_probe_that_ends_without_a_word_lets_the_next_one_try() -> None:
    breaker = opened()
    now_s = 1.0 + PAUSE_FIRST_S
    breaker.opened(now_s, A, "m")
    breaker.ended(now_s, A, "m")
    assert breaker.excluded(now_s, "m") == {}
    breaker.opened(now_s, A, "m")
    assert breaker.excluded(now_s, "m")


def test_what_began_before_the_opening_is_no_probe() -> None:
    breaker = opened()
    breaker.answered(A, "m")
    breaker.ended(2.0, A, "m")
    assert breaker.excluded(2.0, "m")


def test_attempts_from_before_it_opened_are_no_probe() -> None:
    breaker = opened()
    breaker.opened(1.0 + PAUSE_FIRST_S - 0.1, A, "m")
    breaker.answered(A, "m")
    assert breaker.excluded(1.0 + PAUSE_FIRST_S - 0.1, "m"), "an answer that was begun before proves nothing"


def test_circuits_are_bounded() -> None:
    breaker = CircuitBreaker()
    for number in range(CIRCUITS_MAX + 10):
        breaker.stalled(0.0, NodeId(str(number)), "m")
    assert len(breaker._circuits) == CIRCUITS_MAX


@pytest.mark.parametrize("lie", [math.nan, math.inf, -math.inf, -1.0, 1e308])
def test_a_machine_that_lies_of_its_speed_is_still_given_a_finite_time(lie: float) -> None:
    """A pace that is no number once made a gateway look again at once, for ever."""
    lying_load = load(prefill=lie)
    for lying in (lying_load, replace(lying_load, decode_tokens_per_s=lie), load(queued=-(2**70))):
        pace = pace_of(lying, Work(100, 100, True))
        assert FLOOR_S <= pace.first_s < math.inf
        assert FLOOR_S <= pace.gap_s < math.inf

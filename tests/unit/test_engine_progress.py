"""When an engine's silence is a hang, as a table and over virtual time."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from covey_mesh.core.silence import FACTOR, FLOOR_S, TOKENS_A_TOOL_CALL, TOKENS_AN_EVENT
from covey_node.core import engine_progress as progress
from covey_node.core.engine_progress import (
    COLD_S,
    LOOK_S_MAX,
    PROBE_EVERY_S,
    RESTART_AFTER_S,
    EngineProgress,
    OpenAttempt,
    State,
    Step,
    limit_s,
)

BEAT_S = 0.5
PREFILL = 4096.0
DECODE = 40.0
EVENT_S = TOKENS_AN_EVENT / DECODE
ANSWERING = OpenAttempt(0, TOKENS_AN_EVENT)
TOOL_CALL = OpenAttempt(0, TOKENS_A_TOOL_CALL)
WHOLE = OpenAttempt(0, 400)
LONG = OpenAttempt(32_768, TOKENS_AN_EVENT)


@pytest.mark.parametrize(
    ("attempts", "expected_s"),
    [
        ([ANSWERING], EVENT_S),
        ([OpenAttempt(1024, TOKENS_AN_EVENT)], 0.25 + 0.25 + EVENT_S),
        ([LONG, ANSWERING], 8.0 + 0.5 + EVENT_S),
        ([LONG, LONG], 8.0 + 0.5 + EVENT_S),
        ([TOOL_CALL], TOKENS_A_TOOL_CALL / DECODE),
        ([TOOL_CALL, ANSWERING], EVENT_S),
        ([TOOL_CALL, OpenAttempt(0, TOKENS_AN_EVENT, paused=True)], TOKENS_A_TOOL_CALL / DECODE),
        ([WHOLE], 10.0),
        ([OpenAttempt(1024, 0)], 0.5),
    ],
    ids=["answering", "prompt", "long", "two long", "tools", "tools+stream", "tools+paused", "whole", "embedding"],
)
def test_the_limit_is_what_the_engine_needs_until_somebody_must_get_a_byte(
    attempts: list[OpenAttempt], expected_s: float
) -> None:
    assert limit_s(attempts, PREFILL, DECODE) == pytest.approx(FLOOR_S + FACTOR * expected_s)


def test_a_machine_that_measured_nothing_is_given_the_slowest_useful_ones_time() -> None:
    expected_s = (100 + 100) / progress.SLOWEST_PREFILL_TOKENS_PER_S + 8 / progress.SLOWEST_DECODE_TOKENS_PER_S
    assert limit_s([OpenAttempt(100, 8)], 0.0, 0.0) == pytest.approx(FLOOR_S + FACTOR * expected_s)


class Watched:
    """An engine looked at every beat."""

    def __init__(self, warm: bool = True) -> None:
        self.now_s = 500.0
        self.progress = EngineProgress()
        if warm:
            self.run(4 * BEAT_S, [ANSWERING], moving=True)

    def run(self, seconds: float, attempts: Sequence[OpenAttempt], *, moving: bool = False) -> list[tuple[float, Step]]:
        """What was to be done, and after how many seconds; stops at HAND_BACK."""
        began_s, steps = self.now_s, []
        while self.now_s - began_s < seconds:
            self.now_s += BEAT_S
            self.progress.moved = self.progress.moved or moving
            step = self.progress.look(self.now_s, attempts, PREFILL, DECODE)
            if step is not Step.NOTHING:
                steps.append((self.now_s - began_s, step))
            if step is Step.HAND_BACK:
                break
        return steps


LIMIT_S = limit_s([ANSWERING], PREFILL, DECODE)


def test_a_hang_is_noticed_after_its_limit_and_a_question_was_asked_before() -> None:
    watched = Watched()
    (asked_s, ask), (wedged_s, wedged) = watched.run(60.0, [ANSWERING])
    assert (ask, wedged) == (Step.ASK, Step.HAND_BACK)
    assert LIMIT_S / 2 <= asked_s <= LIMIT_S / 2 + BEAT_S
    assert LIMIT_S <= wedged_s <= LIMIT_S + BEAT_S
    assert watched.progress.state is State.WEDGED


def test_long_prompts_are_no_hang() -> None:
    watched = Watched()
    assert watched.run(8.5 + EVENT_S, [LONG, ANSWERING]) == []


def test_bytes_for_anybody_are_progress_for_all() -> None:
    watched = Watched()
    for _ in range(50):
        assert watched.run(LIMIT_S / 2 - BEAT_S, [TOOL_CALL, ANSWERING]) == []
        watched.run(BEAT_S, [TOOL_CALL, ANSWERING], moving=True)


def test_paused_readers_are_not_the_engines_silence() -> None:
    watched = Watched()
    paused = [OpenAttempt(0, TOKENS_AN_EVENT, paused=True)]
    assert watched.run(1000.0, paused) == []
    assert watched.run(LIMIT_S / 2, [ANSWERING]) == [], "counted from when it is read again"


def test_an_idle_engine_is_not_silent_and_becomes_busy_afresh() -> None:
    watched = Watched()
    assert watched.run(1000.0, []) == []
    assert watched.run(LIMIT_S / 2, [ANSWERING]) == []


def test_a_cold_engine_is_given_time_for_its_first_work() -> None:
    watched = Watched(warm=False)
    asked, wedged = watched.run(200.0, [ANSWERING])
    assert asked[1] is Step.ASK
    assert wedged[0] >= COLD_S + LIMIT_S
    watched.progress.fresh()
    assert watched.run(COLD_S / 2, [ANSWERING]) == [], "another life is cold again"


def test_an_answer_to_our_own_question_counts_like_any_byte() -> None:
    watched = Watched()
    assert [step for _, step in watched.run(LIMIT_S / 2 + BEAT_S, [TOOL_CALL, ANSWERING])] == [Step.ASK]
    assert watched.progress.answered() is False
    assert watched.run(LIMIT_S / 2, [TOOL_CALL, ANSWERING]) == []


def test_an_agent_that_stood_still_itself_does_not_blame_its_engine() -> None:
    watched = Watched()
    watched.run(BEAT_S, [ANSWERING])
    watched.now_s += 300.0
    step = watched.progress.look(watched.now_s, [ANSWERING], PREFILL, DECODE)
    assert step in (Step.NOTHING, Step.ASK)
    assert watched.progress.silent_s <= LOOK_S_MAX + BEAT_S


def test_a_wedged_engine_is_asked_until_it_answers() -> None:
    watched = Watched()
    watched.run(60.0, [ANSWERING])
    asked = [after_s for after_s, step in watched.run(10.0, []) if step is Step.ASK]
    assert asked == [PROBE_EVERY_S * n for n in range(1, 6)]
    assert watched.progress.answered() is True
    assert watched.progress.state is State.WELL
    assert watched.run(60.0, []) == []


def test_an_engine_that_falls_silent_again_is_asked_again() -> None:
    watched = Watched()
    for _ in range(3):
        assert [step for _, step in watched.run(LIMIT_S / 2 + BEAT_S, [ANSWERING])] == [Step.ASK]
        watched.run(BEAT_S, [ANSWERING], moving=True)


def test_an_engine_that_wedges_again_has_its_whole_time_again() -> None:
    watched = Watched()
    watched.run(60.0, [ANSWERING])
    watched.run(RESTART_AFTER_S - 5.0, [])
    watched.progress.answered()
    watched.run(60.0, [ANSWERING])
    assert watched.progress.state is State.WEDGED
    assert Step.RESTART not in [step for _, step in watched.run(RESTART_AFTER_S - BEAT_S, [])]


def test_a_wedged_engine_that_stays_silent_is_started_again() -> None:
    watched = Watched()
    watched.run(60.0, [ANSWERING])
    steps = watched.run(RESTART_AFTER_S + BEAT_S, [])
    restarts = [after_s for after_s, step in steps if step is Step.RESTART]
    assert restarts[0] == RESTART_AFTER_S

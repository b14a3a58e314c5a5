import pytest

from covey_mesh.core.facts import EngineState
from covey_node.core import lifecycle
from covey_node.core.lifecycle import TRANSITIONS, Event, IllegalTransition, Lifecycle, Retry, backoff_s


def in_state(state: EngineState) -> Lifecycle:
    made = Lifecycle(0.0)
    made.state = state
    return made


@pytest.mark.parametrize("state", EngineState)
@pytest.mark.parametrize("event", Event)
def test_every_pair_follows_the_table_or_raises(state: EngineState, event: Event) -> None:
    engine = in_state(state)
    if (state, event) in TRANSITIONS:
        engine.step(event, 1.0)
        assert engine.state is TRANSITIONS[state, event]
        assert engine.since_s == 1.0
    else:
        with pytest.raises(IllegalTransition):
            engine.step(event, 1.0)
        assert engine.state is state


def test_every_state_can_be_stopped_and_started_again() -> None:
    for state in EngineState:
        if state not in (EngineState.STOPPED, EngineState.STOPPING):
            assert TRANSITIONS[state, Event.STOP] is EngineState.STOPPING
    assert TRANSITIONS[EngineState.STOPPING, Event.STOPPED] is EngineState.STOPPED


@pytest.mark.parametrize(
    ("crashes", "expected_s"), [(1, 1.0), (2, 2.0), (3, 4.0), (5, 16.0), (6, 30.0), (7, 30.0), (10_000, 30.0)]
)
def test_backoff_doubles_and_is_capped(crashes: int, expected_s: float) -> None:
    assert backoff_s(crashes) == expected_s


def test_no_backoff_before_the_first_end() -> None:
    with pytest.raises(ValueError, match="first end"):
        backoff_s(0)


def crash(engine: Lifecycle, now_s: float) -> Retry:
    retry = engine.ended(now_s)
    if retry.after_s is not None:
        engine.step(Event.BACKOFF_OVER, now_s + retry.after_s)
    return retry


def test_a_crash_loop_ends_in_failed() -> None:
    engine = Lifecycle(0.0)
    engine.step(Event.START, 0.0)
    waits = [crash(engine, float(n)).after_s for n in range(lifecycle.CRASHES_MAX)]
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, None]
    assert engine.state is EngineState.FAILED
    assert engine.restarts == lifecycle.CRASHES_MAX - 1


def test_a_healthy_period_forgives() -> None:
    engine = Lifecycle(0.0)
    engine.step(Event.START, 0.0)
    now_s = 0.0
    for _ in range(lifecycle.CRASHES_MAX * 3):
        engine.step(Event.ANSWERED, now_s)
        now_s += lifecycle.HEALTHY_AFTER_S
        assert crash(engine, now_s).after_s == 1.0


def test_ready_for_a_moment_does_not_forgive() -> None:
    engine = Lifecycle(0.0)
    engine.step(Event.START, 0.0)
    crash(engine, 0.0)
    engine.step(Event.ANSWERED, 1.0)
    assert crash(engine, 1.0 + lifecycle.HEALTHY_AFTER_S - 0.1).after_s == 2.0


def test_a_hopeless_end_is_not_tried_again() -> None:
    engine = Lifecycle(0.0)
    engine.step(Event.START, 0.0)
    assert engine.ended(1.0, hopeless=True) == Retry(None)
    assert engine.state is EngineState.FAILED


def test_starting_again_by_hand_forgets_the_crashes() -> None:
    engine = in_state(EngineState.FAILED)
    engine.crashes_in_row = 6
    engine.step(Event.START, 0.0)
    assert engine.ended(1.0).after_s == 1.0

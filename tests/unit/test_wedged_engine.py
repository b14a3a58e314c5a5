"""A node whose simulated engine hangs, on virtual time: handed back, refused, asked, ready again or restarted."""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.test_node import Lab, Sink, model, with_lab

from covey_mesh.core.exchange import FailureCode
from covey_mesh.core.facts import EngineState
from covey_mesh.core.silence import FLOOR_S
from covey_node.core.engine_progress import COLD_S, PROBE_EVERY_S, RESTART_AFTER_S
from covey_node.core.simulated import Fault, FaultKind

HANG = Fault(FaultKind.HANG)
NOTICED_WITHIN_S = FLOOR_S + 3.0
"""A few tokens' time at 50 tokens a second, and two beats."""


async def warmed(lab: Lab) -> None:
    """Speeds are measured, and the engine is no cold one."""
    for number in range(2):
        sink, _ = lab.open(f"warm-{number}", tokens=100)
        await sink.ended.wait()
        assert sink.failure is None


async def hung(lab: Lab, *sinks: Sink) -> float:
    """Hang now; returns the seconds until all of these were handed back."""
    began_s = lab.loop.time()
    lab.engines[0].inject(HANG)
    for sink in sinks:
        await asyncio.wait_for(sink.ended.wait(), 300.0)
    return lab.loop.time() - began_s


def test_a_hang_ends_every_attempt_within_seconds_and_the_model_is_refused_and_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(lab: Lab) -> None:
        await warmed(lab)
        streams = [lab.open(f"s{number}", tokens=2000)[0] for number in range(2)]
        tools, _ = lab.open("tools", tokens=2000)
        waiting, _ = lab.open("waiting")
        await asyncio.sleep(1.0)
        assert await hung(lab, *streams, tools, waiting) < NOTICED_WITHIN_S
        assert [(await lab.failure(sink)).code for sink in (*streams, tools)] == [FailureCode.STALLED] * 3
        assert (await lab.failure(waiting)).code is FailureCode.RESOURCE_EXHAUSTED
        load = lab.node.load().models[0]
        assert (load.state, load.running_requests, load.waiting_requests) == (EngineState.WEDGED, 0, 0)
        assert "nothing came from it for" in load.detail
        refused = await lab.failure(lab.open("next")[0])
        assert refused.code is FailureCode.RESOURCE_EXHAUSTED
        assert "is wedged: nothing came from it" in refused.message
        assert refused.retry_after_ms == 1000 * PROBE_EVERY_S
        assert len([r for r in caplog.records if "engine wedged" in r.message]) == 1

    with_lab(model(running_limit=3))(scenario)


def test_an_answer_to_the_nodes_own_question_makes_it_ready_at_once() -> None:
    async def scenario(lab: Lab) -> None:
        await warmed(lab)
        stream, _ = lab.open(tokens=2000)
        await hung(lab, stream)
        await asyncio.sleep(12.0)
        assert lab.node.load().models[0].state is EngineState.WEDGED
        lab.engines[0].heal()
        await asyncio.sleep(0.2)
        load = lab.node.load().models[0]
        assert (load.state, load.restarts, load.detail) == (EngineState.READY, 0, "")
        after, _ = lab.open("after")
        await after.ended.wait()
        assert after.failure is None
        assert lab.engines[0].running == 0, "no question of its own is left in it"

    with_lab(model())(scenario)


def test_an_engine_that_stays_silent_is_started_again(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(lab: Lab) -> None:
        await warmed(lab)
        stream, _ = lab.open(tokens=2000)
        await hung(lab, stream)
        await asyncio.sleep(RESTART_AFTER_S - 2.0)
        assert (len(lab.engines), lab.node.load().models[0].state) == (1, EngineState.WEDGED)
        await asyncio.sleep(5.0)
        load = lab.node.load().models[0]
        assert (load.state, load.restarts, len(lab.engines)) == (EngineState.READY, 1, 2)
        assert any("wedged" in str(getattr(r, "cause", "")) for r in caplog.records)
        after, _ = lab.open("after")
        await after.ended.wait()
        assert after.failure is None

    with_lab(model())(scenario)


def test_a_cold_engine_is_not_taken_for_a_wedged_one() -> None:
    async def scenario(lab: Lab) -> None:
        first, _ = lab.open(tokens=2)
        await asyncio.sleep(0)
        lab.engines[0].inject(HANG)
        await asyncio.sleep(COLD_S)
        assert not first.ended.is_set()
        lab.engines[0].heal()
        await first.ended.wait()
        assert first.failure is None

    with_lab(model())(scenario)


def test_a_busy_engine_and_a_slow_reader_are_left_alone() -> None:
    async def scenario(lab: Lab) -> None:
        await warmed(lab)
        slow, upstream = lab.open("slow", tokens=2000)
        await asyncio.sleep(1.0)
        upstream.pause()
        await asyncio.sleep(120.0)
        assert not slow.ended.is_set()
        upstream.resume()
        await slow.ended.wait()
        assert slow.failure is None
        assert {report.models[0].state for _, report in lab.reports} <= {EngineState.STARTING, EngineState.READY}

    with_lab(model())(scenario)


def test_one_silent_answer_is_not_a_wedged_engine() -> None:
    """The node's own question is answered: the attempt is its gateway's to judge."""

    async def scenario(lab: Lab) -> None:
        await warmed(lab)
        lab.engines[0].inject(Fault(FaultKind.STOP_MID_STREAM, after_tokens=5))
        sink, upstream = lab.open(tokens=100)
        await asyncio.sleep(60.0)
        assert not sink.ended.is_set()
        assert lab.node.load().models[0].state is EngineState.READY
        upstream.cancel()

    with_lab(model())(scenario)


def test_stopping_while_wedged_leaves_nothing_behind() -> None:
    async def scenario(lab: Lab) -> None:
        await warmed(lab)
        stream, _ = lab.open(tokens=2000)
        await hung(lab, stream)
        began_s = lab.loop.time()
        await lab.node.stop(30.0)
        assert lab.loop.time() - began_s < 1.0
        assert lab.node.load().models[0].state is EngineState.STOPPED

    with_lab(model())(scenario)

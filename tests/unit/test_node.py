"""The node with simulated engines, on virtual time: admission, supervision and reports joined."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from tests.support.virtual import virtually

from covey_gateway.core import paths as gateway_paths
from covey_mesh.core.engine_paths import ENGINE_PATHS
from covey_mesh.core.exchange import Failure, FailureCode, ForwardedRequest, PiecewiseSink, Upstream
from covey_mesh.core.facts import EngineState, NodeLoad
from covey_mesh.core.names import NodeId
from covey_node.core.engine import Engine, EngineStartError
from covey_node.core.settings import ModelSpec, NodeSettings, SettingsError
from covey_node.core.simulated import Fault, FaultKind, SimulatedSettings
from covey_node.io.model_card import ModelCardError
from covey_node.io.node import PUBLISH_EVERY_S_MIN, Node
from covey_node.io.simulated import SimulatedEngine

CHAT = "/v1/chat/completions"


class Sink(PiecewiseSink):
    def __init__(self) -> None:
        self.status = 0
        self.body = b""
        self.ended = asyncio.Event()
        self.failure: Failure | None = None

    def head(self, status: int, content_type: str, retry_after_s: int = 0) -> None:
        self.status = status

    def data(self, chunk: bytes) -> None:
        self.body += chunk

    def end(self, failure: Failure | None) -> None:
        assert not self.ended.is_set()
        self.failure = failure
        self.ended.set()


class Lab:
    """One node whose engines can be reached, and all its reports."""

    def __init__(self, *specs: ModelSpec, make: Callable[[ModelSpec], Engine] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        self.reports: list[tuple[float, NodeLoad]] = []
        self.engines: list[SimulatedEngine] = []
        self.node = Node(
            NodeSettings(models=specs), NodeId("a" * 32), 7, self.loop.time, self._publish, make or self._make
        )

    def _publish(self, load: NodeLoad) -> None:
        self.reports.append((self.loop.time(), load))

    def _make(self, spec: ModelSpec) -> Engine:
        self.engines.append(SimulatedEngine(spec))
        return self.engines[-1]

    def open(
        self,
        request_id: str = "r",
        attempt: int = 1,
        model: str = "m",
        tokens: int = 4,
        deadline_ms: int = 0,
        path: str = CHAT,
    ) -> tuple[Sink, Upstream]:
        body = {"model": model, "stream": True, "max_tokens": tokens, "messages": [{"role": "user", "content": "hi"}]}
        raw, sink = json.dumps(body).encode(), Sink()
        request = ForwardedRequest(request_id, attempt, model, path, raw, True, 3, tokens, deadline_ms)
        upstream = self.node.open(request, sink)
        assert not sink.ended.is_set()
        return sink, upstream

    async def failure(self, sink: Sink) -> Failure:
        await sink.ended.wait()
        assert sink.failure is not None
        return sink.failure


def model(name: str = "m", **simulated: Any) -> ModelSpec:
    return ModelSpec(name=name, engine="simulated", simulated=SimulatedSettings(**simulated))


def with_lab(*specs: ModelSpec, **options: Any) -> Callable[[Callable[[Lab], Coroutine[Any, Any, None]]], None]:
    """Runs a scenario on a started node, and stops it."""

    def run(scenario: Callable[[Lab], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            lab = Lab(*specs, **options)
            await lab.node.start(lambda _: None)
            await scenario(lab)
            await lab.node.stop(0.0)
            assert len(asyncio.all_tasks()) == 1

        virtually(main)

    return run


def test_a_request_is_served_and_measured() -> None:
    async def scenario(lab: Lab) -> None:
        sink, _ = lab.open(tokens=40)
        assert lab.node.load().models[0].running_requests == 1
        assert lab.node.load().models[0].queued_tokens == 43
        await sink.ended.wait()
        assert (sink.status, sink.failure) == (200, None)
        load = lab.node.load().models[0]
        assert (load.running_requests, load.queued_tokens, load.state) == (0, 0, EngineState.READY)
        assert load.engine == "simulated"
        assert load.decode_tokens_per_s == pytest.approx(50, rel=0.2)
        assert load.prefill_tokens_per_s > 0
        assert load.kv_cache_tokens_free == load.kv_cache_tokens_total > 0

    with_lab(model())(scenario)


def test_waiting_then_refused() -> None:
    async def scenario(lab: Lab) -> None:
        sinks = [lab.open(f"r{n}", tokens=20)[0] for n in range(3)]
        refused = await lab.failure(sinks[2])
        assert refused.code is FailureCode.RESOURCE_EXHAUSTED
        assert refused.retry_after_ms > 0
        load = lab.node.load().models[0]
        assert (load.running_requests, load.waiting_requests) == (1, 1)
        for sink in sinks[:2]:
            await sink.ended.wait()
            assert sink.failure is None

    with_lab(model(running_limit=1))(scenario)


def test_cancel_while_waiting_and_while_running() -> None:
    async def scenario(lab: Lab) -> None:
        running, first = lab.open("a", tokens=1000)
        waiting, second = lab.open("b")
        third, _ = lab.open("c")
        assert (await lab.failure(third)).code is FailureCode.RESOURCE_EXHAUSTED
        second.cancel()
        first.cancel()
        await asyncio.sleep(1)
        assert not running.ended.is_set()
        assert not waiting.ended.is_set()
        assert lab.engines[0].running == 0
        assert lab.node.load().models[0].running_requests == 0

    with_lab(model(running_limit=1))(scenario)


def test_a_newer_attempt_takes_over_and_an_older_is_stale() -> None:
    async def scenario(lab: Lab) -> None:
        old, _ = lab.open("a", attempt=1, tokens=1000)
        new, _ = lab.open("a", attempt=3)
        assert (await lab.failure(old)).code is FailureCode.STALE_ATTEMPT
        await new.ended.wait()
        assert new.failure is None
        late, _ = lab.open("a", attempt=2)
        assert (await lab.failure(late)).code is FailureCode.STALE_ATTEMPT
        assert lab.engines[0].running == 0

    with_lab(model(running_limit=1))(scenario)


def test_a_superseded_attempt_that_is_cancelled_hears_nothing() -> None:
    async def scenario(lab: Lab) -> None:
        old, upstream = lab.open("a", attempt=1, tokens=1000)
        new, _ = lab.open("a", attempt=2)
        upstream.cancel()
        await new.ended.wait()
        assert not old.ended.is_set()

    with_lab(model())(scenario)


def test_a_deadline_ends_the_attempt_running_or_waiting() -> None:
    async def scenario(lab: Lab) -> None:
        sinks = [lab.open(f"r{n}", tokens=1000, deadline_ms=500)[0] for n in range(2)]
        begun_s = lab.loop.time()
        for sink in sinks:
            assert (await lab.failure(sink)).code is FailureCode.DEADLINE_EXCEEDED
        assert lab.loop.time() - begun_s == pytest.approx(0.5, abs=0.1)
        assert lab.engines[0].running == 0

    with_lab(model(running_limit=1))(scenario)


def test_what_waits_too_long_is_handed_back() -> None:
    async def scenario(lab: Lab) -> None:
        _, first = lab.open("a", tokens=4000)
        waiting, _ = lab.open("b")
        failure = await lab.failure(waiting)
        assert failure.code is FailureCode.RESOURCE_EXHAUSTED
        assert "within 30 s" in failure.message
        first.cancel()

    with_lab(model(running_limit=1))(scenario)


def test_unknown_model_and_draining() -> None:
    async def scenario(lab: Lab) -> None:
        unknown = await lab.failure(lab.open(model="x")[0])
        assert unknown.code is FailureCode.NO_MODEL
        assert "it offers: m" in unknown.message
        going_on, _ = lab.open("a", tokens=20)
        lab.node.drain(True)
        assert (await lab.failure(lab.open("b")[0])).code is FailureCode.DRAINING
        await going_on.ended.wait()
        assert going_on.failure is None
        assert lab.node.load().draining
        lab.node.drain(False)
        again, _ = lab.open("c")
        await again.ended.wait()
        assert again.failure is None

    with_lab(model())(scenario)


@pytest.mark.parametrize("undone", [False, True])
def test_what_outlasts_the_grace_of_draining_is_handed_back(undone: bool) -> None:
    async def scenario(lab: Lab) -> None:
        short, _ = lab.open("a", tokens=5)
        long, _ = lab.open("b", tokens=400)
        lab.node.drain(True, 1.0)
        if undone:
            lab.node.drain(False)
        await short.ended.wait()
        assert short.failure is None
        await long.ended.wait()
        assert (long.failure is None) is undone
        assert long.failure is None or long.failure.code is FailureCode.DRAINING

    with_lab(model())(scenario)


def test_what_outlasts_the_grace_of_stopping_is_handed_back() -> None:
    async def scenario(lab: Lab) -> None:
        long, _ = lab.open("a", tokens=4000)
        await lab.node.stop(1.0)
        await long.ended.wait()
        assert long.failure is not None
        assert long.failure.code is FailureCode.DRAINING

    with_lab(model())(scenario)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/load_lora_adapter",
        "/sleep",
        "/v1/chat/completions HTTP/1.1\r\nContent-Length: 0\r\n\r\nPOST /v1/completions",
        "/v1/chat/completions?x=1",
        "/v1/chat/completions\u2028",
        "",
    ],
)
def test_an_engine_is_reached_by_its_public_paths_alone(path: str) -> None:
    """Whatever another machine wrote into the path: it would be spliced into a connection that all clients share."""

    async def scenario(lab: Lab) -> None:
        failure = await lab.failure(lab.open(path=path)[0])
        assert failure.code is FailureCode.NO_MODEL
        assert "path" in failure.message

    with_lab(model())(scenario)


def test_gateways_and_nodes_agree_on_the_paths() -> None:
    assert gateway_paths.ENGINE_PATHS.keys() == ENGINE_PATHS


def test_a_dead_engine_is_restarted_and_reported() -> None:
    async def scenario(lab: Lab) -> None:
        sink, _ = lab.open(tokens=1000)
        waiting, _ = lab.open("w")
        lab.engines[0].inject(Fault(FaultKind.DIE, after_tokens=3))
        assert (await lab.failure(sink)).code is FailureCode.ENGINE_FAILED
        assert (await lab.failure(waiting)).code is FailureCode.ENGINE_FAILED
        await asyncio.sleep(0.5)
        load = lab.node.load().models[0]
        assert load.state is EngineState.BACKING_OFF
        assert "died" in load.detail
        refused = await lab.failure(lab.open("b")[0])
        assert refused.code is FailureCode.NO_MODEL
        assert "backing-off" in refused.message
        await asyncio.sleep(1.0)
        load = lab.node.load().models[0]
        assert (load.state, load.restarts, load.running_requests) == (EngineState.READY, 1, 0)
        after, _ = lab.open("c")
        await after.ended.wait()
        assert after.failure is None
        states = [report.models[0].state for _, report in lab.reports]
        assert EngineState.BACKING_OFF in states

    with_lab(model(running_limit=1))(scenario)


def test_an_engine_that_never_starts_ends_failed_and_others_serve() -> None:
    attempts: list[float] = []

    def make(spec: ModelSpec) -> Engine:
        if spec.name == "broken":
            attempts.append(asyncio.get_running_loop().time())
            raise EngineStartError("no memory left; use a smaller model")
        if spec.name == "absent":
            raise ModelCardError("/nowhere is not a Hugging Face model directory")
        return SimulatedEngine(spec)

    async def scenario(lab: Lab) -> None:
        states = {m.model: m for m in lab.node.load().models}
        assert states["m"].state is EngineState.READY
        assert states["broken"].state is EngineState.FAILED
        assert "no memory left" in states["broken"].detail
        assert states["absent"].state is EngineState.FAILED
        waits = [after - before for before, after in itertools.pairwise(attempts)]
        assert waits == pytest.approx([1, 2, 4, 8, 16], abs=0.5)

    with_lab(model(), model("broken"), model("absent"), make=make)(scenario)


def test_reports_are_frequent_but_bounded() -> None:
    async def scenario(lab: Lab) -> None:
        sinks = [lab.open(f"r{n}", tokens=100)[0] for n in range(30)]
        for sink in sinks:
            await sink.ended.wait()
        await asyncio.sleep(5)
        times = [at for at, _ in lab.reports]
        gaps = [after - before for before, after in itertools.pairwise(times)]
        assert min(gaps) >= PUBLISH_EVERY_S_MIN - 1e-6
        assert max(gaps) <= 1.1
        sequences = [report.sequence for _, report in lab.reports]
        assert sequences == sorted(set(sequences))
        assert {report.incarnation for _, report in lab.reports} == {7}

    with_lab(model())(scenario)


def test_models_come_and_go() -> None:
    async def scenario(lab: Lab) -> None:
        assert (await lab.node.add_model(model("second"))).state is EngineState.READY
        with pytest.raises(SettingsError):
            await lab.node.add_model(model("second"))
        sink, _ = lab.open(model="second")
        await lab.node.remove_model("second")
        await sink.ended.wait()
        assert sink.failure is None
        assert (await lab.failure(lab.open(model="second")[0])).code is FailureCode.NO_MODEL
        with pytest.raises(KeyError):
            await lab.node.remove_model("second")

    with_lab(model())(scenario)


def test_stop_lets_requests_finish_and_then_ends_them() -> None:
    async def scenario(lab: Lab) -> None:
        short, _ = lab.open("short", tokens=20)
        long, _ = lab.open("long", tokens=3000)
        await lab.node.stop(5.0)
        assert short.failure is None
        assert short.ended.is_set()
        assert long.failure is not None
        assert long.failure.code is FailureCode.DRAINING
        await lab.node.stop(5.0)

    with_lab(model())(scenario)

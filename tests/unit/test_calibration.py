"""A model measures itself after it was loaded: what it asks, how long, and that nobody waits for it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from tests.support.virtual import virtually

from covey_mesh.core.exchange import Failure, ForwardedRequest, PiecewiseSink
from covey_mesh.core.facts import EngineState, ModelLoad, NodeLoad, Task
from covey_mesh.core.names import NodeId
from covey_mesh.core.speeds import CALIBRATED, LEARNED, STORED
from covey_mesh.io.disk_worker import DiskWorker
from covey_node.core.calibration import CONTEXT_SHARE, PROMPT_TOKENS, Step, plan, prompt, question
from covey_node.core.measured import REPORT_EVERY_S
from covey_node.core.settings import ModelSpec, NodeSettings, SettingsError
from covey_node.core.simulated import Fault, FaultKind, SimulatedSettings
from covey_node.io.calibrating import STEP_S_MAX
from covey_node.io.node import Node
from covey_node.io.simulated import SimulatedEngine
from covey_node.io.speed_book import SpeedBook

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("task", "context", "limit", "expected"),
    [
        (Task.GENERATE, 8192, 256, [(1, 256, True), (8, 8, True), (1, 32, False), (1, 1024, False), (32, 8, True)]),
        (Task.GENERATE, 0, 4, [(1, 256, True), (4, 8, True), (1, 32, False)]),
        (Task.GENERATE, 256, 1, [(1, 64, True), (1, 32, False)]),
        (Task.GENERATE, 1, 1, [(1, 1, True)]),
        (Task.EMBED, 512, 64, [(1, 128, False)] * 2 + [(1, 32, False)] * 2),
    ],
)
def test_the_plan(task: Task, context: int, limit: int, expected: list[tuple[int, int, bool]]) -> None:
    warm_up, *steps = plan(task, context, limit)
    assert not warm_up.counts
    assert steps == [Step(*each) for each in expected]
    assert all(step.prompt_tokens * CONTEXT_SHARE <= max(context, 4 * max(PROMPT_TOKENS)) for step in steps)


def test_no_prompt_is_the_beginning_of_another() -> None:
    made = [prompt(tokens, seed) for tokens in (1, 8, 256) for seed in range(50)]
    assert len({text.split()[0] for text in made}) == 50
    assert [len(prompt(tokens, 3).split()) for tokens in (1, 8, 256)] == [1, 8, 256]


def test_a_question_asks_for_its_own_true_length() -> None:
    path, body = question("m", Task.GENERATE, Step(1, 8, True), 5)
    asked = json.loads(body)
    assert path == "/v1/completions"
    assert asked["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    assert question("m", Task.EMBED, Step(1, 8, False), 5)[0] == "/v1/embeddings"


@pytest.mark.parametrize("wrong", [-1.0, 61.0, float("nan")])
def test_the_time_is_bounded(wrong: float) -> None:
    with pytest.raises(SettingsError, match="calibration_s"):
        NodeSettings(calibration_s=wrong).validated()


class Sink(PiecewiseSink):
    def __init__(self) -> None:
        self.body = b""
        self.first_s = 0.0
        self.ended = asyncio.Event()

    def head(self, status: int, content_type: str, retry_after_s: int = 0) -> None:
        self.first_s = asyncio.get_running_loop().time()

    def data(self, chunk: bytes) -> None:
        self.body += chunk

    def end(self, failure: Failure | None) -> None:
        self.ended.set()


class Lab:
    """A node with one simulated model `m`, and its reports."""

    def __init__(
        self, book: SpeedBook | None = None, calibration_s: float = 3.0, task: Task = Task.GENERATE, **simulated: Any
    ):
        self.loop = asyncio.get_running_loop()
        self.engines: list[SimulatedEngine] = []
        self.loads: list[ModelLoad] = []
        spec = ModelSpec("m", engine="simulated", task=task, simulated=SimulatedSettings(**simulated))
        settings = NodeSettings(models=(spec,), calibration_s=calibration_s)
        self.node = Node(settings, NodeId("a" * 32), 7, self.loop.time, self._publish, self._make, speeds=book)

    def _publish(self, load: NodeLoad) -> None:
        self.loads.extend(load.models)

    def _make(self, spec: ModelSpec) -> SimulatedEngine:
        self.engines.append(SimulatedEngine(spec))
        return self.engines[-1]

    @property
    def load(self) -> ModelLoad:
        return self.node.load().models[0]

    @property
    def measuring(self) -> bool:
        return self.load.detail.startswith("measuring its speed")

    async def started(self) -> float:
        """Seconds until it was ready."""
        began_s = self.loop.time()
        await self.node.start(lambda _: None)
        return self.loop.time() - began_s

    async def measured(self) -> float:
        """Seconds that it measured itself, after it was ready."""
        began_s = self.loop.time()
        while self.measuring:  # noqa: ASYNC110 (in virtual time)
            await asyncio.sleep(0.05)
        return self.loop.time() - began_s

    async def ask(self, tokens: int = 20, number: int = 0) -> float:
        """Seconds to the first byte."""
        body = {"model": "m", "stream": True, "max_tokens": tokens, "messages": [{"role": "user", "content": "hi"}]}
        sink, began_s = Sink(), self.loop.time()
        self.node.open(ForwardedRequest(f"r{number}", 1, "m", CHAT, json.dumps(body).encode(), True, 3, tokens), sink)
        await sink.ended.wait()
        return sink.first_s - began_s

    async def ended(self) -> None:
        await self.node.stop(0.0)
        assert len(asyncio.all_tasks()) == 1, "nothing is left running"


def test_a_simulated_engine_finds_its_own_speeds() -> None:
    async def main() -> None:
        lab = Lab(prefill_tokens_per_s=2000.0, decode_tokens_per_s=40.0, batch_slowdown=0.02, start_s=0.5)
        assert await lab.started() == pytest.approx(0.5, abs=0.05)
        assert lab.load.state is EngineState.READY, "ready first: nobody waits for a measurement"
        assert lab.measuring
        assert 0.5 < await lab.measured() <= 3.1
        await asyncio.sleep(REPORT_EVERY_S)
        load = lab.load
        assert load.prefill_tokens_per_s == pytest.approx(2000, rel=0.1)
        assert load.decode_tokens_per_s == pytest.approx(40, rel=0.1)
        speeds = load.speeds
        assert speeds.source == CALIBRATED
        assert [p.batch for p in speeds.decode] == [1, 8, 32]
        assert speeds.decode[2].step_s == pytest.approx((1 + 0.02 * 31) / 40, rel=0.1)
        assert speeds.batch_slowdown == pytest.approx(0.02, rel=0.2)
        assert speeds.load_s == pytest.approx(0.5, abs=0.05)
        assert 0 < speeds.confidence < 1
        assert load.running_requests == 0
        assert lab.engines[0].running == 0, "nothing of it is left in the engine"
        await lab.ended()

    virtually(main)


def test_an_embedding_engine_finds_its_own_speed() -> None:
    async def main() -> None:
        lab = Lab(task=Task.EMBED, prefill_tokens_per_s=1000.0)
        await lab.started()
        await lab.measured()
        assert lab.load.prefill_tokens_per_s == pytest.approx(1000, rel=0.1)
        assert lab.load.speeds.source == CALIBRATED
        await lab.ended()

    virtually(main)


def test_a_client_ends_it_at_once() -> None:
    async def main() -> None:
        lab = Lab(decode_tokens_per_s=20.0)
        await lab.started()
        alone_s = 0.01
        await asyncio.sleep(0.5)
        assert lab.measuring
        assert lab.engines[0].running > 0
        first_s = await lab.ask()
        assert first_s < alone_s + 1 / 20, "at most the step that ran"
        assert not lab.measuring
        assert lab.engines[0].running == 0
        await lab.ended()

    virtually(main)


def test_a_slow_engine_is_measured_no_longer_than_allowed() -> None:
    async def main() -> None:
        lab = Lab(calibration_s=2.0, prefill_tokens_per_s=150.0, decode_tokens_per_s=2.0)
        await lab.started()
        assert await lab.measured() <= 2.2
        assert lab.load.prefill_tokens_per_s == pytest.approx(150, rel=0.3)
        await lab.ended()

    virtually(main)


@pytest.mark.parametrize("fault", [FaultKind.HANG, FaultKind.DIE, FaultKind.REFUSE])
def test_an_engine_that_fails_at_it_harms_nobody(fault: FaultKind) -> None:
    async def main() -> None:
        lab = Lab()
        await lab.started()
        lab.engines[0].inject(Fault(fault))
        assert await lab.measured() <= STEP_S_MAX
        await lab.ended()

    virtually(main)


def test_off_is_off() -> None:
    async def main() -> None:
        lab = Lab(calibration_s=0.0)
        await lab.started()
        assert not lab.measuring
        assert lab.load.speeds.source == ""
        await lab.ended()

    virtually(main)


def test_stopping_in_the_middle_leaves_nothing() -> None:
    async def main() -> None:
        lab = Lab()
        await lab.started()
        await asyncio.sleep(0.1)
        assert lab.measuring
        await lab.ended()

    virtually(main)


def test_what_was_measured_survives_the_agent(tmp_path: Path) -> None:
    worker = DiskWorker()

    async def first() -> None:
        lab = Lab(SpeedBook(tmp_path, worker), start_s=0.5)
        await lab.started()
        await lab.measured()
        await lab.ended()

    async def second() -> None:
        lab = Lab(SpeedBook(tmp_path, worker), start_s=0.5)
        assert lab.node.load().models == ()
        await lab.started()
        assert not lab.measuring, "it is known well enough"
        speeds = lab.load.speeds
        assert (speeds.source, speeds.load_s) == (STORED, pytest.approx(0.5, abs=0.05))
        assert lab.load.decode_tokens_per_s == pytest.approx(50, rel=0.1)
        for number in range(20):
            await lab.ask(40, number)
        assert lab.load.speeds.source == LEARNED
        await lab.ended()

    async def another_configuration() -> None:
        lab = Lab(SpeedBook(tmp_path, worker), start_s=0.5, decode_tokens_per_s=99.0)
        await lab.started()
        assert lab.measuring
        await lab.ended()

    for life in (first, second, another_configuration):
        virtually(life)
    worker.close()
    worker = DiskWorker()
    virtually(second)
    worker.close()


def test_a_machine_that_gets_slow_tells_within_seconds_and_again_when_it_is_over() -> None:
    async def main() -> None:
        lab = Lab(decode_tokens_per_s=50.0)
        await lab.started()
        await lab.measured()
        asked = [asyncio.ensure_future(lab.ask(4000, number)) for number in range(3)]
        await asyncio.sleep(5.0)
        usual, usual_prefill = lab.load.decode_tokens_per_s, lab.load.prefill_tokens_per_s
        for factor in (6.0, 1.0):
            lab.engines[0].slow_down(factor)
            await asyncio.sleep(4.0)
            reported = lab.loads[-1]
            assert reported.decode_tokens_per_s == pytest.approx(usual / factor, rel=0.1)
            assert reported.speeds.decode_factor == pytest.approx(factor, rel=0.1)
            assert reported.prefill_tokens_per_s == pytest.approx(usual_prefill / factor, rel=0.1)
        for each in asked:
            each.cancel()
        await lab.ended()

    virtually(main)

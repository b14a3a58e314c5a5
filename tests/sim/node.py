"""A simulated machine's node: the product's ServedModel (admission, meter, attempts) around its simulated engine.

Replaces covey_node.io.node.Node and its Supervisor, which need tasks: the same door, the same reports, crashes and
restarts on timers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.sim.loop import ProcessLoop, ProcessTimer

from covey_mesh.core.exchange import Failure, FailureCode, ForwardedRequest, ResponseSink, Upstream
from covey_mesh.core.facts import EngineState, NodeLoad, Task
from covey_mesh.core.names import NodeId
from covey_node.core.engine import EngineInfo
from covey_node.core.settings import ModelSpec
from covey_node.io.attempt import refused
from covey_node.io.node import PUBLISH_EVERY_S_MAX, PUBLISH_EVERY_S_MIN
from covey_node.io.served_model import ServedModel
from covey_node.io.simulated import SimulatedEngine


class SimSupervisor:
    """As much of covey_node.io.supervisor.Supervisor as ServedModel reads."""

    def __init__(self, spec: ModelSpec, process: ProcessLoop, changed: Callable[[], None]) -> None:
        self.state = EngineState.STARTING
        self.info: EngineInfo | None = None
        self.engine: SimulatedEngine | None = None
        self.detail = ""
        self.restarts = 0
        self.ready_since_s = float("inf")
        self._spec = spec
        self._process = process
        self._changed = changed

    def start(self) -> None:
        self.state = EngineState.STARTING
        self._process.call_later(self._spec.simulated.start_s, self._ready)
        self._changed()

    def crash(self, pause_s: float) -> None:
        """The engine process dies; its supervisor learns of it on the next turn, and starts another one."""
        engine = self.engine
        if engine is not None and self.state is EngineState.READY:
            engine.die("a fault was injected")
            self.ready_since_s = float("inf")
            self._process.call_soon(self._down, pause_s)

    def silent(self, detail: str) -> None:
        self.state, self.detail = EngineState.WEDGED, detail
        self._changed()

    def answered(self) -> None:
        self.state, self.detail = EngineState.READY, ""
        self._changed()

    def condemn(self, cause: str) -> None:
        if self.state is EngineState.WEDGED:
            self.state = EngineState.READY
            self.crash(1.0)

    def _down(self, pause_s: float) -> None:
        self.state, self.engine, self.info = EngineState.BACKING_OFF, None, None
        self.ready_since_s = float("inf")
        self.restarts += 1
        self._process.call_later(pause_s, self.start)
        self._changed()

    def _ready(self) -> None:
        spec = self._spec
        self.engine = SimulatedEngine(spec)
        simulated = spec.simulated
        self.info = EngineInfo(
            "simulated",
            spec.name,
            Task.GENERATE,
            simulated.max_context_tokens,
            simulated.kv_cache_tokens,
            simulated.running_limit,
        )
        self.state, self.ready_since_s = EngineState.READY, self._process.loop.now_s
        self._changed()


class SimNode:
    """`lie` falsifies what is published, not what is done."""

    def __init__(
        self,
        node_id: NodeId,
        incarnation: int,
        process: ProcessLoop,
        clock: Callable[[], float],
        publish: Callable[[NodeLoad], None],
        spec: ModelSpec,
    ) -> None:
        self._node_id = node_id
        self._incarnation = incarnation
        self._process = process
        self._clock = clock
        self._publish = publish
        self._sequence = 0
        self._published_s = float("-inf")
        self._timer: ProcessTimer | None = None
        self.draining = False
        self.lie: Callable[[NodeLoad], NodeLoad] | None = None
        unused: Any = None
        self.served = ServedModel(spec, unused, clock, self._changed, unix_clock=clock)
        self.supervisor = SimSupervisor(spec, process, self._engine_changed)
        self.served.supervisor = self.supervisor  # type: ignore[assignment]

    def start(self, with_engine: bool) -> None:
        if with_engine:
            self.supervisor.start()
        self._process.call_later(PUBLISH_EVERY_S_MAX / 2, self._beat)

    @property
    def ready(self) -> bool:
        return self.supervisor.state is EngineState.READY and not self.draining

    def open(self, request: ForwardedRequest, sink: ResponseSink) -> Upstream:
        if self.draining:
            return refused(sink, Failure(FailureCode.DRAINING, "this machine takes no new requests now"))
        if request.model != self.served.spec.name:
            return refused(sink, Failure(FailureCode.NO_MODEL, "this machine does not offer that model"))
        return self.served.open(request, sink)

    def drain(self) -> None:
        self.draining = True
        self._changed()

    def load(self) -> NodeLoad:
        return NodeLoad(
            node_id=self._node_id,
            incarnation=self._incarnation,
            sequence=self._sequence,
            models=(self.served.load(),),
            draining=self.draining,
        )

    def _engine_changed(self) -> None:
        """Of ServedModel's own what goes without calibration and the supervisor's lifecycle."""
        self.served._ready = self.supervisor.state is EngineState.READY
        self.served._update_bounds()
        self._changed()

    def _changed(self) -> None:
        if self._timer is None:
            wait_s = max(0.0, self._published_s + PUBLISH_EVERY_S_MIN - self._clock())
            self._timer = self._process.call_later(wait_s, self._publish_now)

    def _publish_now(self) -> None:
        self._timer = None
        self._sequence += 1
        self._published_s = self._clock()
        load = self.load()
        self._publish(load if self.lie is None else self.lie(load))

    def _beat(self) -> None:
        self._process.call_later(PUBLISH_EVERY_S_MAX / 2, self._beat)
        self.served.expire()
        if self._clock() - self._published_s >= PUBLISH_EVERY_S_MAX / 2:
            self._changed()

"""The node: this machine's engines behind one door, `open`, and the report of what they can take.

Admission decides (covey_node.core.admission), a Supervisor keeps each engine running, an Attempt joins the two for one
request. Everything here runs on the event loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from covey_mesh.core.engine_paths import ENGINE_PATHS
from covey_mesh.core.exchange import Failure, FailureCode, ForwardedRequest, ResponseSink, Upstream
from covey_mesh.core.facts import ModelLoad, NodeLoad, Task
from covey_mesh.core.names import NodeId
from covey_node.core import vllm_command
from covey_node.core.engine import Engine
from covey_node.core.settings import ModelSpec, NodeSettings, SettingsError
from covey_node.core.vllm_command import Host
from covey_node.io import machine, runtime_files
from covey_node.io.attempt import refused
from covey_node.io.gpus import GpuInventory, GpuPoller
from covey_node.io.model_card import ModelCard, ModelCardError, read_card
from covey_node.io.served_model import ServedModel
from covey_node.io.simulated import SimulatedEngine
from covey_node.io.speed_book import SpeedBook, key_of
from covey_node.io.supervisor import Supervisor
from covey_node.io.vllm import VllmEngine

log = logging.getLogger(__name__)

PUBLISH_EVERY_S_MIN = 0.1
PUBLISH_EVERY_S_MAX = 1.0
REMEMBER_EVERY_S = 60.0
"""Measured speeds are written so often at most, and when the agent ends."""

MODELS_MAX = 64

MakeEngine = Callable[[ModelSpec], Engine]


class Node:
    """All engines of one machine. `clock` counts through suspends (CLOCK_BOOTTIME); `publish` takes every report.

    `speeds` keeps what was measured for the next life of the agent. `make_engine` replaces the choice between vLLM and
    the simulated engine, for tests.
    """

    def __init__(
        self,
        settings: NodeSettings,
        node_id: NodeId,
        incarnation: int,
        clock: Callable[[], float],
        publish: Callable[[NodeLoad], None],
        make_engine: MakeEngine | None = None,
        speeds: SpeedBook | None = None,
    ) -> None:
        self.settings = settings.validated()
        self.node_id = node_id
        self.machine = machine.machine()
        self._incarnation = incarnation
        self._clock = clock
        self._publish = publish
        self._make_engine = make_engine or self._engine
        self._speeds = speeds
        self._speed_keys: dict[str, str] = {}
        self._remembered_s = clock()
        self._served: dict[str, ServedModel] = {}
        self._gpus = GpuPoller(GpuInventory(self._own_processes))
        self._memory_free_bytes = machine.memory()[1]
        self._draining = False
        self._stopped = False
        self._sequence = 0
        self._published_s = float("-inf")
        self._publish_timer: asyncio.TimerHandle | None = None
        self._handing_back: asyncio.TimerHandle | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, progress: Callable[[str], None]) -> None:
        """Starts every configured model side by side; returns when each is READY or FAILED. Reports from the first
        moment on. A model that fails is reported, not raised: the others serve."""
        if any(model.engine == "vllm" for model in self.settings.models):
            self._sweep()
        await self._gpus.poll()
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._poll_machine(), name="machine poll"),
            loop.create_task(self._beat(), name="load report"),
        ]
        served = [self._serve(spec, progress) for spec in self.settings.models]
        for model in served:
            await model.supervisor.settled()

    async def stop(self, grace_s: float) -> None:
        """No new requests; those in flight have `grace_s`; then nothing is left running. Safe to call twice."""
        if self._stopped:
            return
        self._stopped = True
        self._remember()
        self.drain(True)
        await asyncio.gather(*(model.stop(grace_s) for model in self._served.values()))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._publish_timer is not None:
            self._publish_timer.cancel()
        self._gpus.close()

    def open(self, request: ForwardedRequest, sink: ResponseSink) -> Upstream:
        """covey_mesh.core.exchange.OpenRequest. Refusals come through the sink, never from inside this call."""
        if self._draining:
            return refused(sink, Failure(FailureCode.DRAINING, "this machine takes no new requests now"))
        served = self._served.get(request.model)
        if served is None:
            offered = ", ".join(sorted(self._served)) or "none"
            why = f"this machine does not offer {request.model!r}; it offers: {offered}"
            return refused(sink, Failure(FailureCode.NO_MODEL, why))
        if request.path not in ENGINE_PATHS:
            return refused(sink, Failure(FailureCode.NO_MODEL, "no engine here is asked under that path"))
        return served.open(request, sink)

    def load(self) -> NodeLoad:
        """The report as of now."""
        return NodeLoad(
            node_id=self.node_id,
            incarnation=self._incarnation,
            sequence=self._sequence,
            gpus=self._gpus.gpus,
            models=tuple(model.load() for model in self._served.values()),
            draining=self._draining,
            memory_free_bytes=self._memory_free_bytes,
        )

    def drain(self, on: bool, grace_s: float | None = None) -> None:
        """Refuse new requests, or take them again. Those admitted go on, for `grace_s` at most (None: without end);
        then they are handed back, and their gateways continue them elsewhere."""
        if self._handing_back is not None:
            self._handing_back.cancel()
            self._handing_back = None
        if on and grace_s is not None:
            self._handing_back = asyncio.get_running_loop().call_later(grace_s, self._hand_back)
        if on != self._draining:
            self._draining = on
            self._changed()

    def _hand_back(self) -> None:
        for model in self._served.values():
            model.hand_back("this machine is draining")

    async def add_model(self, spec: ModelSpec, progress: Callable[[str], None] = lambda _: None) -> ModelLoad:
        """Starts one more model; returns its report once it is READY or FAILED. Raises SettingsError."""
        if spec.name in self._served:
            raise SettingsError(f"a model named {spec.name} is already served here")
        if len(self._served) >= MODELS_MAX:
            raise SettingsError(f"at most {MODELS_MAX} models on one machine")
        served = self._serve(spec.validated(), progress)
        await served.supervisor.settled()
        return served.load()

    async def remove_model(self, name: str) -> None:
        """Requests in flight have the configured grace. Raises KeyError for a model that is not served here."""
        served = self._served[name]
        await served.stop(self.settings.stop_grace_s)
        self._served.pop(name, None)
        self._changed()

    def supervisor(self, name: str) -> Supervisor:
        """Of a served model; raises KeyError."""
        return self._served[name].supervisor

    def _serve(self, spec: ModelSpec, progress: Callable[[str], None]) -> ServedModel:
        task = spec.task or _card_task(spec)
        resolved = replace(spec, task=task)
        served = ServedModel(
            resolved,
            lambda: self._make_engine(resolved),
            self._clock,
            self._changed,
            calibration_s=self._calibration_s,
        )
        self._served[spec.name] = served
        self._recall(served)
        served.supervisor.start(progress)
        return served

    # Speeds.

    def _calibration_s(self) -> float:
        """Whoever else uses the GPU is not disturbed, and would be measured with it."""
        shared = any(gpu.foreign_processes for gpu in self._gpus.gpus)
        return 0.0 if shared else self.settings.calibration_s

    def _recall(self, served: ServedModel) -> None:
        if self._speeds is None:
            return
        spec, host = served.spec, self._host()
        fixed = replace(host, memory_available_bytes=0)
        try:
            card_args = read_card(spec.path).extra_args if spec.engine == "vllm" else ()
        except ModelCardError:
            card_args = ()  # told when the engine starts
        arguments = [*self.settings.engine_command, *vllm_command.arguments(spec, card_args, "", fixed)]
        hardware = [gpu.name for gpu in self._gpus.gpus] or [self.machine.cpu_name, str(host.cpu_threads)]
        key = self._speed_keys[spec.name] = key_of(spec, arguments, hardware)
        record = self._speeds.get(key)
        if record is not None:
            served.restore(record)

    def _remember(self) -> None:
        self._remembered_s = self._clock()
        for name, served in self._served.items():
            record = served.to_remember()
            if self._speeds is not None and record is not None:
                self._speeds.save(self._speed_keys[name], record)

    def _engine(self, spec: ModelSpec) -> Engine:
        if spec.engine == "simulated":
            return SimulatedEngine(spec)
        return VllmEngine(spec, read_card(spec.path), self.settings, self._host())

    def _host(self) -> Host:
        device = self.settings.device
        if device == "auto":
            device = "cuda" if self._gpus.gpus else "cpu"
        threads = self.settings.cpu_threads or max(1, self.machine.cpu_count // 2)
        return Host(device, threads, machine.memory()[1])

    def _sweep(self) -> None:
        try:
            folder = runtime_files.private_folder(runtime_files.folder_of(self.settings.runtime_dir))
        except runtime_files.RuntimeFolderError:
            return  # told when the first engine starts
        runtime_files.sweep(folder)

    def _own_processes(self) -> frozenset[int]:
        """Called on the NVML thread: works on a copy of the table."""
        return frozenset(pid for model in list(self._served.values()) for pid in model.process_ids())

    # Reports.

    def _changed(self) -> None:
        """Publish soon: at once if the last report is old enough, else when it is."""
        if self._publish_timer is None and not self._stopped:
            loop = asyncio.get_running_loop()
            wait_s = max(0.0, self._published_s + PUBLISH_EVERY_S_MIN - self._clock())
            self._publish_timer = loop.call_later(wait_s, self._publish_now)

    def _publish_now(self) -> None:
        self._publish_timer = None
        self._sequence += 1
        self._published_s = self._clock()
        self._publish(self.load())

    async def _beat(self) -> None:
        """A report at least every PUBLISH_EVERY_S_MAX, and the end of requests that waited too long."""
        while True:
            await asyncio.sleep(PUBLISH_EVERY_S_MAX / 2)
            for model in self._served.values():
                model.expire()
            if self._clock() - self._published_s >= PUBLISH_EVERY_S_MAX / 2:
                self._changed()
            if self._clock() - self._remembered_s >= REMEMBER_EVERY_S:
                self._remember()

    async def _poll_machine(self) -> None:
        while True:
            before = (self._gpus.gpus, self._memory_free_bytes >> 26)
            await self._gpus.poll()
            self._memory_free_bytes = machine.memory()[1]
            if before != (self._gpus.gpus, self._memory_free_bytes >> 26):  # 64 MiB steps: smaller ones are noise
                self._changed()
            await asyncio.sleep(self.settings.gpu_poll_s)


def _card_task(spec: ModelSpec) -> Task:
    """What the model directory says; a broken directory is told by the engine's start."""
    try:
        card = read_card(spec.path) if spec.engine == "vllm" else ModelCard()
    except ModelCardError:
        card = ModelCard()
    return card.task or Task.GENERATE

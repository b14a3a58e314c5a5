"""What a node is told to run, as frozen values validated once. Reading files and flags is the program's part."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from covey_mesh.core.facts import Task
from covey_node.core.simulated import SimulatedSettings

ENGINES = ("vllm", "simulated")
DEVICES = ("auto", "cuda", "cpu")


class SettingsError(ValueError):
    """A setting cannot work; the message names it and says what would."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model to offer."""

    name: str
    """What clients ask for."""
    path: str = ""
    """A Hugging Face directory; not used by the simulated engine."""
    engine: str = "vllm"
    task: Task | None = None
    """None: what the model's covey.json says, else generate."""
    extra_args: tuple[str, ...] = ()
    """Appended to `vllm serve`; stronger than covey's own flags and than the model's covey.json."""
    max_context_tokens: int | None = None
    """None: the model's own, or what fits in memory if that is less."""
    kv_cache_bytes: int | None = None
    """None: from free memory on a CPU, vLLM's own choice on a GPU."""
    running_limit: int | None = None
    """Requests in one batch (`--max-num-seqs`); None: the engine's default."""
    gpu_memory_utilization: float = 0.9
    simulated: SimulatedSettings = field(default_factory=SimulatedSettings)

    def validated(self) -> ModelSpec:
        """Itself; raises SettingsError."""
        if not self.name or len(self.name) > 200 or any(c.isspace() for c in self.name):
            raise SettingsError(f"model name {self.name!r}: use 1 to 200 characters without spaces")
        if self.engine not in ENGINES:
            raise SettingsError(f"engine {self.engine!r} of model {self.name}: one of {', '.join(ENGINES)}")
        if self.engine == "vllm" and not self.path:
            raise SettingsError(f"model {self.name}: give the path of a Hugging Face model directory")
        if not 0.05 <= self.gpu_memory_utilization <= 1.0:
            raise SettingsError(f"gpu_memory_utilization of model {self.name}: between 0.05 and 1")
        for name in ("max_context_tokens", "kv_cache_bytes", "running_limit"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise SettingsError(f"{name} of model {self.name}: more than 0, or leave it out")
        return self


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """One machine's engines."""

    models: tuple[ModelSpec, ...] = ()
    runtime_dir: str = ""
    """Sockets and process notes, private to this user. Empty: chosen under XDG_RUNTIME_DIR or the temporary folder."""
    device: str = "auto"
    """"auto": CUDA where NVML finds a GPU, else the CPU."""
    cpu_threads: int | None = None
    """Threads of one engine on the CPU; None: half of the processors."""
    start_silence_s: float = 300.0
    """An engine that is starting and prints nothing for this long is given up. Loading large weights is not silent."""
    start_timeout_s: float = 3600.0
    """From start to ready, at most."""
    stop_grace_s: float = 15.0
    """For requests in flight when an engine is stopped."""
    gpu_poll_s: float = 1.0
    calibration_s: float = 0.0
    """A model just loaded is asked a few questions for at most so long, unless a client comes first; 0: not at all."""
    engine_command: tuple[str, ...] = ()
    """Instead of this Python's own vLLM: a command that takes vLLM's arguments after it."""

    def validated(self) -> NodeSettings:
        """With each model validated; raises SettingsError."""
        if self.device not in DEVICES:
            raise SettingsError(f"device {self.device!r}: one of {', '.join(DEVICES)}")
        if self.cpu_threads is not None and self.cpu_threads < 1:
            raise SettingsError("cpu_threads: at least 1, or leave it out")
        for name in ("start_silence_s", "start_timeout_s", "gpu_poll_s"):
            if getattr(self, name) <= 0:
                raise SettingsError(f"{name}: more than 0")
        if self.stop_grace_s < 0:
            raise SettingsError("stop_grace_s: 0 or more")
        if not 0 <= self.calibration_s <= 60:
            raise SettingsError("calibration_s: from 0 (off) to 60")
        names = [model.name for model in self.models]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SettingsError(f"two models are named {twice[0]}: give each its own name")
        return replace(self, models=tuple(model.validated() for model in self.models))

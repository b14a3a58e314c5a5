"""Judges this machine: Python, GPU, engine, disk, memory, limits. Pure; machine_facts.py does the reading."""

from __future__ import annotations

from dataclasses import dataclass

from covey.doctor.finding import Finding, fail, ok, warn

PYTHON_MIN = (3, 11)

DISK_FREE_MIN_BYTES = 1024**3
DISK_FREE_WARN_BYTES = 20 * 1024**3
"""One model of a useful size and its compiled kernels."""

SHM_WARN_BYTES = 1024**3
"""vLLM's workers exchange tensors there; a container's default of 64 MB stops several GPUs from working together."""

MEMORY_MIN_BYTES = 4 * 1024**3
"""An engine process alone takes 1 to 3 GB before it holds a model."""

FILES_MIN = 4096
"""Two sockets for each of a thousand streams, engines and links beside them."""

_GIB = 1024**3


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """What was read. None: cannot be known here. `engine_error` says why it does not start."""

    python: tuple[int, int, int]
    gpus: tuple[str, ...]
    gpu_error: str
    engine_version: str | None
    engine_runs: bool | None
    engine_error: str
    cuda_build: bool | None
    disk_free_bytes: int
    disk_path: str
    shm_bytes: int | None
    memory_bytes: int
    files_soft: int
    files_hard: int
    engine_started: bool = True
    """Whether it was really started, or only its files were looked at."""


def check_machine(facts: MachineFacts, engine: str = "vllm") -> list[Finding]:
    """Everything, in the order in which it matters. `engine` is the setting: "simulated" needs no vLLM."""
    findings = [check_python(facts.python), check_gpus(facts)]
    if engine == "vllm":
        findings.append(check_engine(facts))
    return [
        *findings,
        check_disk(facts.disk_free_bytes, facts.disk_path),
        check_shared_memory(facts.shm_bytes, len(facts.gpus)),
        check_memory(facts.memory_bytes),
        check_files(facts.files_soft, facts.files_hard),
    ]


def check_python(version: tuple[int, int, int]) -> Finding:
    """The interpreter that runs this."""
    text = ".".join(map(str, version))
    if version[:2] < PYTHON_MIN:
        return fail("Python", text, f"install Python {PYTHON_MIN[0]}.{PYTHON_MIN[1]} or newer, then `make setup`")
    return ok("Python", text)


def check_gpus(facts: MachineFacts) -> Finding:
    """GPUs by NVML; a machine without one is fine."""
    if facts.gpus:
        return ok("GPU", ", ".join(facts.gpus))
    if not facts.gpu_error or "not found" in facts.gpu_error.lower():
        return ok("GPU", "none: models run on the CPU")
    fix = "see whether `nvidia-smi` works; reinstall the driver or reboot if it says that versions do not match"
    return warn("GPU", f"the NVIDIA driver does not answer: {facts.gpu_error}", fix)


def check_engine(facts: MachineFacts) -> Finding:
    """vLLM: installed, starts, and built for what this machine has."""
    title, wanted = "vLLM", "cuda" if facts.gpus else "cpu"
    if facts.engine_version is None:
        return fail(title, "not installed", f"`make setup`, or `pip install 'covey[{wanted}]'`")
    if facts.engine_runs is False:
        detail = f"{facts.engine_version} is installed but does not start: {facts.engine_error}"
        return fail(title, detail, "run `vllm --version` to see it all; `make setup` repairs a broken installation")
    if facts.gpus and facts.cuda_build is False:
        fix = "`make setup` chooses the CUDA build where there is a GPU; or `pip install 'covey[cuda]'`"
        return warn(title, f"{facts.engine_version} is the CPU build, and this machine has a GPU", fix)
    if facts.engine_runs is None:
        fix = "run `vllm --version`; a first start on a slow disk takes minutes"
        return warn(title, f"{facts.engine_version} did not answer in time", fix)
    return ok(title, facts.engine_version + ("" if facts.engine_started else " (`--thorough` also starts it)"))


def check_disk(free_bytes: int, path: str) -> Finding:
    """Room for keys and logs at least, for models usually."""
    detail = f"{free_bytes / _GIB:.1f} GiB free at {path}"
    if free_bytes < DISK_FREE_MIN_BYTES:
        return fail(
            "disk", detail, "free some space: without it no ballot can be written, and this machine never leads"
        )
    if free_bytes < DISK_FREE_WARN_BYTES:
        return warn("disk", detail, "enough to run; a further model may not fit")
    return ok("disk", detail)


def check_shared_memory(shm_bytes: int | None, gpu_count: int) -> Finding:
    """/dev/shm, through which an engine's processes exchange data."""
    if shm_bytes is None:
        return warn("shared memory", "/dev/shm is missing", "mount it: `mount -t tmpfs tmpfs /dev/shm`")
    detail = f"{shm_bytes / _GIB:.1f} GiB in /dev/shm"
    if shm_bytes < SHM_WARN_BYTES:
        fix = "in a container: `docker run --shm-size 4g` (or `--ipc host`); else remount /dev/shm with a larger size"
        return (fail if gpu_count > 1 else warn)("shared memory", detail, fix)
    return ok("shared memory", detail)


def check_memory(memory_bytes: int) -> Finding:
    """RAM."""
    detail = f"{memory_bytes / _GIB:.1f} GiB"
    if memory_bytes < MEMORY_MIN_BYTES:
        return warn("memory", detail, "serve no model here: this machine can still be a gateway for the others")
    return ok("memory", detail)


def check_files(soft: int, hard: int) -> Finding:
    """Open files; the agent raises its own limit as far as it may (covey.file_limit)."""
    if hard < FILES_MIN:
        fix = "raise it: `LimitNOFILE=65536` in the service, or `ulimit -n 65536`"
        return warn("open files", f"at most {hard}", fix)
    return ok("open files", f"{soft}, may be raised to {hard}")

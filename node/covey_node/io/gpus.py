"""GPU inventory through NVML (nvidia-ml-py, NVIDIA's own bindings over libnvidia-ml.so.1).

A feature that a GPU does not have is None, never an error. A GPU that is lost drops out of the inventory until it is
back; a machine without the library or driver has no GPUs. Unified memory (DGX Spark: NVML does not report GPU memory)
is reported as the system's memory, which it is.

NVML calls can take long on a troubled driver, so they run on one thread of their own, and a poll that is still running
is not joined by a second one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pynvml

from covey_mesh.core.facts import Gpu
from covey_node.io.machine import memory

log = logging.getLogger(__name__)

GPUS_MAX = 64
POLL_TIMEOUT_S = 2.0

T = TypeVar("T")
OwnProcesses = Callable[[], frozenset[int]]


class GpuInventory:
    """Blocking reads; `own_processes` are the engines that covey started, all others on a GPU are foreign."""

    def __init__(self, own_processes: OwnProcesses) -> None:
        self._own_processes = own_processes
        self._initialized = False

    def read(self) -> tuple[Gpu, ...]:
        """All GPUs that answer; empty where there is no NVML. Never raises for a driver's fault."""
        if not self._initialized and not self._initialize():
            return ()
        count = _or_none(pynvml.nvmlDeviceGetCount)
        if count is None:  # the driver went away: begin anew next time
            self._initialized = False
            return ()
        own = self._own_processes()
        found = (self._gpu(index, own) for index in range(min(count, GPUS_MAX)))
        return tuple(gpu for gpu in found if gpu is not None)

    def _initialize(self) -> bool:
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            log.debug("no NVML", extra={"cause": str(error)})
            return False
        self._initialized = True
        return True

    def _gpu(self, index: int, own: frozenset[int]) -> Gpu | None:
        handle = _or_none(pynvml.nvmlDeviceGetHandleByIndex, index)
        name = _or_none(pynvml.nvmlDeviceGetName, handle) if handle is not None else None
        if name is None:
            log.warning("a GPU does not answer", extra={"gpu": index})
            return None
        total, free = _memory(handle)
        utilization = _or_none(pynvml.nvmlDeviceGetUtilizationRates, handle)
        power_mw = _or_none(pynvml.nvmlDeviceGetPowerUsage, handle)
        temperature = _or_none(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU)
        return Gpu(
            index=index,
            uuid=_or_none(pynvml.nvmlDeviceGetUUID, handle) or "",
            name=name,
            memory_total_bytes=total,
            memory_free_bytes=free,
            utilization_percent=utilization.gpu if utilization is not None else None,
            power_w=power_mw / 1000 if power_mw is not None else None,
            temperature_c=float(temperature) if temperature is not None else None,
            foreign_processes=_foreign_processes(handle, own),
        )


def _memory(handle: Any) -> tuple[int, int]:
    """(total, free) bytes, of the system where the GPU has no memory of its own."""
    info = _or_none(pynvml.nvmlDeviceGetMemoryInfo, handle)
    if info is None or info.total == 0:
        return memory()
    return int(info.total), int(info.free)


def _foreign_processes(handle: Any, own: frozenset[int]) -> int:
    """A process that both computes and draws is one process."""
    found: set[int] = set()
    for read in (pynvml.nvmlDeviceGetComputeRunningProcesses, pynvml.nvmlDeviceGetGraphicsRunningProcesses):
        found |= {process.pid for process in _or_none(read, handle) or ()}
    return len(found - own)


def _or_none(call: Callable[..., T], *arguments: Any) -> T | None:
    """None where the GPU lacks the feature, the driver fails, or the library is older than the call."""
    try:
        return call(*arguments)
    except pynvml.NVMLError:
        return None


class GpuPoller:
    """The inventory off the event loop's thread, with bounded patience."""

    def __init__(self, inventory: GpuInventory) -> None:
        self._inventory = inventory
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="nvml")
        self._reading: asyncio.Future[tuple[Gpu, ...]] | None = None
        self.gpus: tuple[Gpu, ...] = ()

    async def poll(self) -> tuple[Gpu, ...]:
        """Fresh values, or the last known ones when the driver takes longer than POLL_TIMEOUT_S."""
        if self._reading is None:
            loop = asyncio.get_running_loop()
            self._reading = loop.run_in_executor(self._thread, self._inventory.read)
        done, _ = await asyncio.wait([self._reading], timeout=POLL_TIMEOUT_S)
        if done:
            self.gpus = self._reading.result()
            self._reading = None
        return self.gpus

    def close(self) -> None:
        """A read under way is left to end by itself."""
        self._thread.shutdown(wait=False, cancel_futures=True)

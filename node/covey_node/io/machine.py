"""This machine's processor and memory, from /proc; zeros and empty text where the system does not say."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Machine:
    """What does not change while the agent runs."""

    cpu_name: str
    cpu_count: int
    memory_total_bytes: int


def machine() -> Machine:
    """Read once at start. `cpu_count`: the processors that this process may use."""
    total, _ = memory()
    return Machine(_cpu_name(), len(os.sched_getaffinity(0)), total)


def memory(meminfo: Path = Path("/proc/meminfo")) -> tuple[int, int]:
    """(total, available) bytes; available is the kernel's estimate of what can be had without swapping."""
    try:
        text = meminfo.read_text()
    except OSError:
        return 0, 0
    values = {name: int(kib) * 1024 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}
    return values.get("MemTotal", 0), values.get("MemAvailable", 0)


def _cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()

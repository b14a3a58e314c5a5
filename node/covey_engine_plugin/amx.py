"""Asks Linux for the CPU's tile registers (AMX) before vLLM uses them.

vLLM's CPU attention runs AMX instructions wherever the processor has them, but relies on another library having asked
the kernel for permission first (oneDNN does, at its first large matrix product). When the very first prompt is only a
token or two, nobody has, and the process dies of an illegal instruction. Asking is harmless and lasts for the process.

Source: Linux kernel, Documentation/arch/x86/xstate.rst (dynamically enabled features).
"""

from __future__ import annotations

import ctypes
import platform
import sys

SYS_ARCH_PRCTL = 158
ARCH_REQ_XCOMP_PERM = 0x1023
XFEATURE_XTILEDATA = 18


def allow_tile_registers() -> bool:
    """True where permission was granted (again); False on every other processor, kernel or system."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.syscall(SYS_ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0)

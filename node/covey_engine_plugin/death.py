"""One system call: let the kernel kill this process when its parent ends (Linux, prctl(2) PR_SET_PDEATHSIG).

SIGKILL rather than SIGTERM: an engine deep in a native call does not run Python's signal handlers, and an engine
without its agent has nobody left to finish work for. The setting survives execve and is not inherited over fork.
"""

from __future__ import annotations

import ctypes
import os
import signal

PR_SET_PDEATHSIG = 1


def die_with_parent(expected_parent: int) -> None:
    """Arms the signal, then closes the race: a parent that died before the call would never raise it.

    Raises OSError where the kernel refuses; does nothing on systems other than Linux.
    """
    if not hasattr(os, "pidfd_open"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl(PR_SET_PDEATHSIG): {os.strerror(code)}")
    if os.getppid() != expected_parent:
        os.kill(os.getpid(), signal.SIGKILL)

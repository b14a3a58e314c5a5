"""Loaded by vLLM in its own processes (never by the agent): what covey mends in an engine from inside.

An engine's processes die with the agent that started it (death.py), and may use the processor's tiles (amx.py).

Without this a SIGKILL of the agent, or of the process that serves HTTP, leaves vLLM's EngineCore and workers behind
for minutes, holding GPU memory. vLLM calls `register` in each of its processes (entry point `vllm.general_plugins`).

Nothing heavy is imported here, and nothing happens in a vLLM that covey did not start.
"""

from __future__ import annotations

import os

from covey_engine_plugin.amx import allow_tile_registers
from covey_engine_plugin.death import die_with_parent

PARENT_VARIABLE = "COVEY_ENGINE_PARENT_PID"
"""Set by the agent for its engines: the agent's process id. Absent from a user's own vLLM."""


def register() -> None:
    """Ties this process to its parent. Called by vLLM in the serving process, the engine core and each worker."""
    if PARENT_VARIABLE in os.environ:
        die_with_parent(_expected_parent())
        allow_tile_registers()


def _expected_parent() -> int:
    """Who must still be the parent once the signal is armed.

    multiprocessing knows who asked for this process, also when that one died meanwhile; a fork server stands between.
    vLLM's other helpers are plain subprocesses: for those the present parent is all there is to know.
    """
    import multiprocessing  # vLLM has it loaded; the launcher has no need of it

    asked_for_by = multiprocessing.parent_process()
    if asked_for_by is None or asked_for_by.pid is None or multiprocessing.get_start_method(True) == "forkserver":
        return os.getppid()
    return asked_for_by.pid

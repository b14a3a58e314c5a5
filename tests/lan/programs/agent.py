"""`covey up` as everybody runs it, with a thread beside it that does to its inside what no signal can do.

    python -m tests.lan.programs.agent FIFO up --engine simulated ...

Lines of the FIFO: `engine die`, `engine hang`, `engine heal`, `block SECONDS` (the event loop stands still),
`clock SECONDS` (CLOCK_BOOTTIME jumps, as after a suspend). Nothing of the agent is replaced but how it reads
the clock.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import covey.compose
from covey.cli import main
from covey_mesh.io import discovery
from covey_node.core.simulated import Fault, FaultKind
from covey_node.io.simulated import SimulatedEngine

_engines: weakref.WeakSet[SimulatedEngine] = weakref.WeakSet()
_loops: list[asyncio.AbstractEventLoop] = []
_clock_offset_s = 0.0


def _jumping_clock(real: Callable[[], float]) -> Callable[[], float]:
    return lambda: real() + _clock_offset_s


def _watch_engines() -> None:
    start = SimulatedEngine.start

    async def noted(self: SimulatedEngine, progress: Callable[[str], None]) -> Any:
        _loops[:] = [asyncio.get_running_loop()]
        _engines.add(self)
        return await start(self, progress)

    SimulatedEngine.start = noted  # type: ignore[method-assign]


def _obey(fifo: str) -> None:
    while True:
        with open(fifo) as lines:
            for line in lines:
                if _loops:
                    _loops[0].call_soon_threadsafe(_strike, line.split())


def _strike(words: list[str]) -> None:
    global _clock_offset_s
    if words[0] == "block":
        time.sleep(float(words[1]))
    elif words[0] == "clock":
        _clock_offset_s += float(words[1])
    else:
        for engine in list(_engines):
            if words[1] == "heal":
                engine.heal()
            else:
                engine.inject(Fault(FaultKind(words[1])))


if __name__ == "__main__":
    covey.compose.boottime_s = _jumping_clock(discovery.boottime_s)
    _watch_engines()
    threading.Thread(target=_obey, args=(sys.argv.pop(1),), daemon=True).start()
    sys.argv[0] = "covey"
    sys.exit(main())

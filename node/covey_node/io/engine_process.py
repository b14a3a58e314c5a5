"""One engine process and everything it forks: started to die with the agent, watched, ended without a trace.

Not here: what the process is (vllm.py) and whether it is to be started again (supervisor.py).
"""

from __future__ import annotations

import asyncio
import secrets
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

from covey_node.core.start_progress import Tail
from covey_node.io import runtime_files

LAUNCHER = (sys.executable, "-m", "covey_engine_plugin.launch")
TERMINATE_S_MAX = 10.0
"""Between SIGTERM, with nothing in flight, and SIGKILL of the whole session."""


class EngineProcess(asyncio.SubprocessProtocol):
    """Calls `on_line` for each line printed. `token` names all its processes; `died` is done when the first ended."""

    def __init__(self, folder: Path, on_line: Callable[[str], None]) -> None:
        self.folder = folder
        self.token = secrets.token_hex(16)
        self.socket_path = runtime_files.socket_path(folder, self.token)
        self.events_path = runtime_files.events_path(folder, self.token)
        self.tail = Tail()
        self.died: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.note = runtime_files.Note.of_this_process(self.token)
        self._on_line = on_line
        self._transport: asyncio.SubprocessTransport | None = None

    @property
    def pid(self) -> int | None:
        return self._transport.get_pid() if self._transport is not None else None

    async def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Call from the main thread: the kernel ties the child to the thread that forks it. Raises OSError."""
        self.note.write(self.folder)
        await asyncio.get_running_loop().subprocess_exec(
            lambda: self,
            *LAUNCHER,
            *command,
            env=dict(environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # a terminal's Ctrl-C is for the agent, which then stops the engine in order
        )
        if self.pid is not None:
            self.note = self.note.with_leader(self.pid)
            self.note.write(self.folder)

    async def end(self) -> None:
        """SIGTERM, then SIGKILL of the whole session, note and socket removed. Safe to call twice."""
        if self._transport is not None:
            if not self.died.done():
                self._signal(signal.SIGTERM)
                await asyncio.wait([self.died], timeout=TERMINATE_S_MAX)
            self.note.kill_all()
            if not self.died.done():
                await asyncio.wait([self.died], timeout=TERMINATE_S_MAX)
            self._transport.close()
        self.note.kill_all()
        runtime_files.forget(self.folder, self.token)

    def _signal(self, number: signal.Signals) -> None:
        assert self._transport is not None
        try:
            self._transport.send_signal(number)
        except ProcessLookupError:
            pass

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        for line in self.tail.feed(data):
            self._on_line(line)

    def process_exited(self) -> None:
        if self.died.done():
            return
        code = self._transport.get_returncode() if self._transport is not None else None
        if code is not None and code < 0:
            how = f"killed by {signal.Signals(-code).name}"
        else:
            how = f"ended with status {code}"
        self.died.set_result(how)

"""One gateway process from its start to its end: the socket it is given, its settings, its signals.

The settings go through its standard input, since a command line can be read by everybody; what it logs goes where the
agent's log goes. Not here: what it does (covey.gateway_process), when it is started (supervisor.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Sequence
from typing import Any

from covey_gateway.io.processes.channel import GONE
from covey_gateway.io.processes.port import Port

KILLED_WITHIN_S = 10.0
"""A process that SIGKILL has not ended by then hangs in the kernel: it is left behind, its socket closed."""


class Child:
    """A started process. `port` is the agent's end of its channel."""

    def __init__(self, process: asyncio.subprocess.Process, port: Port) -> None:
        self.process = process
        self.port = port

    @property
    def pid(self) -> int:
        return self.process.pid

    async def over(self) -> str:
        """Returns how it ended: by itself, or because its channel was lost; then it is not left running."""
        exited = asyncio.ensure_future(self.process.wait())
        try:
            ends: list[asyncio.Future[Any]] = [exited, self.port.over]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            lost = self.port.over.result() if self.port.over.done() else GONE
            if lost == GONE:
                await asyncio.wait({exited}, timeout=1.0)  # its socket ends a moment before it does
            why = _how(exited.result()) if lost == GONE and exited.done() else f"its channel was lost: {lost}"
        finally:
            exited.cancel()
            await self.kill()
        return why

    async def kill(self) -> None:
        """SIGKILL, unless it has ended. Safe to call twice."""
        self.port.channel.close()
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.process.wait(), KILLED_WITHIN_S)


async def start_child(command: Sequence[str], settings: bytes, port: Port) -> Child:
    """`command` is followed by the number of the socket's file. From the main thread. Raises OSError."""
    loop = asyncio.get_running_loop()
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            str(its.fileno()),
            pass_fds=(its.fileno(),),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # a terminal's Ctrl-C is for the agent, which then ends its processes in order
        )
    except BaseException:
        ours.close()
        raise
    finally:
        its.close()
    ours.setblocking(False)
    await loop.create_unix_connection(lambda: port.channel, sock=ours)
    assert process.stdin is not None
    process.stdin.write(settings)
    process.stdin.close()
    return Child(process, port)


def _how(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"

"""One agent process from start to end: directories, lock, logging, signals, exit code.

What an agent consists of is in compose.py. SIGINT and SIGTERM: the first ends it cleanly, the second at once. Engines
die with this process in either case.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal

import uvloop

from covey import __version__, logs, runtime_folder
from covey.compose import Agent
from covey.config import Configuration
from covey.errors import ExitCode
from covey.file_limit import raise_file_limit
from covey.membership import open_or_make
from covey.models import model_specs
from covey.running import leave_note, only_agent
from covey.start_screen import StartScreen
from covey_mesh.core.facts import EngineState
from covey_mesh.core.names import short
from covey_mesh.io.identity import Identity

log = logging.getLogger(__name__)

LOOK_INTERVAL_S = 0.25
"""How often the screen looks for a model's changed state, while some model is not ready."""

SETTLED_INTERVAL_S = 1.0
"""While all are: an idle agent should cost nothing."""


def run_agent(configuration: Configuration, as_json: bool) -> ExitCode:
    """Until a signal or `covey down`. Raises UserError where it cannot start."""
    # Before anything is made: a mistyped directory must not leave a new pool behind.
    model_specs(configuration)
    logs.set_up(configuration.log_level, configuration.log_format)
    raise_file_limit()
    with only_agent(configuration.state_dir), runtime_folder.held(configuration.runtime_dir):
        return uvloop.run(_Run(configuration, StartScreen(as_json)).main())


class _Run:
    def __init__(self, configuration: Configuration, screen: StartScreen) -> None:
        self._configuration = configuration
        self._screen = screen
        self._stop = asyncio.Event()
        self._grace_s = configuration.grace_s

    async def main(self) -> ExitCode:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._asked_to_stop)
        identity = self._identity()
        agent = Agent(self._configuration, identity, self._shut_down)
        loop.set_exception_handler(self._component_failed)
        try:
            await self._until_stop(agent)
        finally:
            await agent.stop(self._grace_s)
        return ExitCode.FAILED if agent.crashed else ExitCode.DONE

    def _identity(self) -> Identity:
        identity, made = open_or_make(self._configuration.state_dir)
        who = f"covey {__version__} on {self._configuration.name} ({short(identity.node_id)})"
        self._screen.say("identity", who, node_id=identity.node_id, pool=identity.pool_name)
        if made:
            text = (
                f"new pool `{identity.pool_name}` made, since this machine was in none; to join one: covey join TOKEN"
            )
            self._screen.say("pool_made", text, pool=identity.pool_name)
        return identity

    async def _until_stop(self, agent: Agent) -> None:
        starting = asyncio.create_task(agent.start(self._screen.say))
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await starting
            return
        await starting
        # What exists by now lives as long as the agent; walking all of it again would stop every stream for 20 ms.
        gc.collect()
        gc.freeze()
        where = agent.addresses
        leave_note(
            self._configuration.state_dir, self._configuration.control_socket, where.http, where.grpc, where.link
        )
        self._screen.ready(where.http, where.grpc, where.link, [load.model for load in agent.model_loads()])
        await self._watch_models(agent, stopping)
        self._screen.say("stopping", "stopping: finishing requests, handing over; Ctrl-C again ends at once")

    async def _watch_models(self, agent: Agent, stopping: asyncio.Task[bool]) -> None:
        while not stopping.done():
            loads = agent.model_loads()
            self._screen.models(loads)
            settled = all(load.state is EngineState.READY for load in loads)
            await asyncio.wait({stopping}, timeout=SETTLED_INTERVAL_S if settled else LOOK_INTERVAL_S)

    def _asked_to_stop(self) -> None:
        if self._stop.is_set():
            # Engines were started to die with this process; nothing else outlives it.
            os._exit(int(ExitCode.INTERRUPTED))
        self._stop.set()

    def _shut_down(self, grace_s: float | None) -> None:
        """`covey down`, or a component that crashed."""
        self._grace_s = self._configuration.grace_s if grace_s is None else grace_s
        self._stop.set()

    def _component_failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """A callback or a forgotten task raised: our own bug. Loud, and the agent serves on."""
        error = context.get("exception")
        trace = error if isinstance(error, BaseException) else None
        log.error("internal error: %s", context.get("message"), exc_info=trace)

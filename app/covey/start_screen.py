"""What `covey up` says while it runs: each step once, each change of a model's state, and what to try.

For people plain lines (a service's journal has no cursor to move); with --json one object a line.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import Any

import click

from covey_mesh.core.facts import EngineState, ModelLoad

DETAIL_EVERY_S = 5.0
"""A loading model's progress is repeated at most this often."""

_COLOUR = {
    EngineState.READY: "green",
    EngineState.WEDGED: "red",
    EngineState.FAILED: "red",
    EngineState.BACKING_OFF: "red",
}


class StartScreen:
    """`say` for steps, `models` as often as one likes, `ready` once."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._started = time.monotonic()
        self._states: dict[str, tuple[EngineState, str]] = {}
        self._said_at: dict[str, float] = {}

    def say(self, event: str, text: str, **content: Any) -> None:
        """One step. `event` names it for programs, `text` tells people."""
        if self._as_json:
            click.echo(json.dumps({"event": event, "text": text, **content}))
        else:
            click.echo(text)

    def models(self, loads: Iterable[ModelLoad]) -> None:
        """Say what has changed since the last call."""
        for load in loads:
            before = self._states.get(load.model)
            now = (load.state, load.detail)
            if before == now or (before and before[0] is load.state and not self._due(load.model)):
                continue
            self._states[load.model] = now
            self._said_at[load.model] = time.monotonic()
            self._say_model(load)

    def _due(self, model: str) -> bool:
        return time.monotonic() - self._said_at[model] >= DETAIL_EVERY_S

    def _say_model(self, load: ModelLoad) -> None:
        elapsed = time.monotonic() - self._started
        if self._as_json:
            state = {"model": load.model, "state": load.state.value, "detail": load.detail, "engine": load.engine}
            self.say("model", f"{load.model} {load.state.value}", **state)
            return
        state_text = click.style(load.state.value, fg=_COLOUR.get(load.state))
        simulated = click.style(" (simulated: made-up words, no model)", fg="magenta")
        detail = f": {load.detail}" if load.detail else ""
        mark = simulated if load.engine == "simulated" else ""
        click.echo(f"{elapsed:6.1f} s  {load.model}{mark} {state_text}{detail}")

    def ready(self, http: str, grpc: str, link: str, models: list[str]) -> None:
        """The addresses, once they answer; models may still be loading."""
        if self._as_json:
            self.say("ready", "ready", http=http, grpc=grpc, link=link, models=models)
            return
        click.echo(f"  HTTP  http://{http}/v1   (OpenAI-compatible)")
        click.echo(f"  gRPC  {grpc}   (reflection is on)")
        click.echo(f"  link  {link}   (machines of this pool, mutual TLS)")
        hint = "covey chat Hello!" if models else "another start with --model PATH serves a model from here"
        click.echo(f"  try   covey ps --watch   ·   {hint}   ·   covey invite")

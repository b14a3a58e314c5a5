"""What one call of the covey command was told in common options, and how it prints.

Common options may stand before or after the command's name: `covey --json ps` and `covey ps --json` are the same.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from covey.terminal import harmless_all

if TYPE_CHECKING:
    from rich.console import RenderableType

    from covey.cli.agent_client import AgentClient
    from covey.settings import Loaded

_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass
class Invocation:
    """Common options; `flags` are settings given on the command line."""

    state_dir: Path | None = None
    file: Path | None = None
    endpoint: str | None = None
    as_json: bool = False
    verbose: int = 0

    def load(self, flags: Mapping[str, object] | None = None) -> Loaded:
        """The agent's configuration as seen from here. Raises ConfigurationError."""
        from covey.settings import load

        given = dict(flags or {})
        if self.state_dir is not None:
            given["state_dir"] = self.state_dir
        if self.verbose:
            given["log_level"] = "info" if self.verbose == 1 else "debug"
        return load(given, file=self.file)

    def agent(self) -> AgentClient:
        """The agent at --endpoint, or this machine's own. Raises UserError where none is running."""
        from covey.cli.agent_client import AgentClient

        endpoint = self.endpoint or os.environ.get("COVEY_ENDPOINT")
        if endpoint:
            return AgentClient.at(endpoint, os.environ.get("COVEY_API_KEY", ""))
        return AgentClient.local(self.load().configuration.state_dir)

    def show(self, content: Any, render: Callable[[Any], RenderableType | None]) -> None:
        """Print `content` as JSON where asked for, else as `render` draws it."""
        if self.as_json:
            click.echo(json.dumps(content, ensure_ascii=False))
            return
        drawn = render(harmless_all(content))
        if isinstance(drawn, str):
            # Not through rich: a token must not be folded to the width of the terminal.
            click.echo(drawn)
        elif drawn is not None:
            from rich.console import Console

            Console().print(drawn)


def common_options(function: _Function) -> _Function:
    """Adds the common options to a command and hands it the Invocation as its first argument."""

    @click.option("--state-dir", type=click.Path(path_type=Path), hidden=True)
    @click.option("--config", "file", type=click.Path(path_type=Path), hidden=True)
    @click.option("--endpoint", hidden=True)
    @click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text for people.")
    @click.option("-v", "--verbose", count=True, hidden=True)
    @click.pass_obj
    @functools.wraps(function)
    def wrapped(invocation: Invocation, /, **options: Any) -> Any:
        for name in ("state_dir", "file", "endpoint", "as_json", "verbose"):
            value = options.pop(name)
            if value:
                setattr(invocation, name, value)
        return function(invocation, **options)

    return wrapped  # type: ignore[return-value]

"""Commands that show and change nothing: ps, models, speeds, explain. How it looks is in tables.py, speed_table.py."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from covey.cli.invocation import Invocation, common_options
from covey.terminal import harmless_all

if TYPE_CHECKING:
    from rich.console import RenderableType

WATCH_INTERVAL_S = 1.0


@click.command()
@click.option("--watch", is_flag=True, help="Keep showing, once a second, until Ctrl-C.")
@common_options
def ps(invocation: Invocation, watch: bool) -> None:
    """Machines of the pool: GPUs, models, load, and who leads."""
    from covey.cli.tables import pool_table

    agent = invocation.agent()
    if not watch:
        invocation.show(agent.get("/covey/v1/pool"), pool_table)
    elif invocation.as_json:
        while True:
            invocation.show(agent.get("/covey/v1/pool"), pool_table)
            time.sleep(WATCH_INTERVAL_S)
    else:
        _watch(agent.get)


def _watch(get: Any) -> None:
    from rich.console import Console
    from rich.live import Live

    from covey.cli.tables import pool_table

    def drawn() -> RenderableType:
        return pool_table(harmless_all(get("/covey/v1/pool")))

    try:
        with Live(drawn(), console=Console(), auto_refresh=False, screen=True) as live:
            while True:
                time.sleep(WATCH_INTERVAL_S)
                live.update(drawn(), refresh=True)
    except KeyboardInterrupt:
        pass


@click.command()
@common_options
def models(invocation: Invocation) -> None:
    """Models that the pool offers now, and where."""
    from covey.cli.tables import models_table

    invocation.show(invocation.agent().get("/covey/v1/pool"), models_table)


@click.command()
@click.argument("model", required=False, default="")
@common_options
def speeds(invocation: Invocation, model: str) -> None:
    """How fast each machine runs each model: measured, or expected before it was.

    MODEL: only this one.
    """
    from covey.cli.speed_table import speeds_table
    from covey.errors import ExitCode, UserError

    found = invocation.agent().get("/covey/v1/speeds")
    if model:
        rows = [row for row in found["speeds"] if row["model"] == model]
        if not rows:
            names = ", ".join(sorted({row["model"] for row in found["speeds"]})) or "none"
            raise UserError(f"no machine offers a model called {model}", f"one of: {names}", ExitCode.NOT_FOUND)
        found = {**found, "speeds": rows}
    invocation.show(found, speeds_table)


@click.command()
@click.argument("request")
@common_options
def explain(invocation: Invocation, request: str) -> None:
    """Why REQUEST went where it went: every machine, its prediction or the reason against it.

    REQUEST is the x-request-id of an answer. Each machine remembers its last 1,000 requests.
    """
    from urllib.parse import quote

    from covey.cli.tables import explanation

    agent = invocation.agent()
    pool = agent.get("/covey/v1/pool")
    names = {member["facts"]["node_id"]: member["facts"]["name"] for member in pool["members"]}
    found = agent.get(f"/covey/v1/explain/{quote(request, safe='')}")
    invocation.show(found, lambda content: explanation(content, names))

"""covey up: this machine's agent, in the foreground, until Ctrl-C or `covey down`.

Its flags are the settings of covey.config, one each; keys have none, since command lines can be read by everybody.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import click

from covey.cli.invocation import Invocation, common_options
from covey.config import fields

# Settings that hold lists have a flag in the singular, given once for each item.
REPEATED = {
    "models": "model",
    "engine_arguments": "engine-argument",
    "advertise": "advertise",
    "cors_origins": "cors-origin",
    "trusted_hosts": "trusted-host",
    "peers": "peer",
    "etcd_endpoints": "etcd-endpoint",
}
# state_dir is an option of every command.
WITHOUT_FLAG = frozenset({"state_dir", "keys", "key_priorities"})


def _setting_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for name, field in reversed(fields().items()):
        if name not in WITHOUT_FLAG:
            function = _option(name, field)(function)
    return function


def _option(name: str, field: dataclasses.Field[object]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    describe = field.metadata["describe"]
    if name in REPEATED:
        return click.option(f"--{REPEATED[name]}", name, multiple=True, help=f"{describe} Repeatable.")
    flag = name.replace("_", "-")
    if field.type == "bool":
        return click.option(f"--{flag}/--no-{flag}", name, default=None, help=describe)
    return click.option(f"--{flag}", name, help=describe)


@click.command()
@_setting_options
@common_options
def up(invocation: Invocation, **settings: Any) -> None:
    """Start this machine's agent and stay until Ctrl-C.

    On a machine that is in no pool yet a new pool is made, and said so; to come into an existing one, run
    `covey join TOKEN` first.
    """
    given = {name: value for name, value in settings.items() if value not in (None, ())}
    loaded = invocation.load(given)
    from covey.run import run_agent

    click.get_current_context().exit(int(run_agent(loaded.configuration, as_json=invocation.as_json)))

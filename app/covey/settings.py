"""Where settings come from, from weak to strong: defaults, covey.toml, environment (COVEY_*), flags.

An unknown name is an error everywhere, with the nearest known one: a misspelt setting that is silently ignored costs
hours.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from covey.config import Configuration, fields
from covey.errors import ConfigurationError
from covey.places import SETTINGS_NAME, SYSTEM_SETTINGS, default_runtime_dir, default_state_dir

PREFIX = "COVEY_"
# Read by the commands and by tools/setup.py, not settings of an agent.
COMMAND_VARIABLES = frozenset(
    {
        "COVEY_CONFIG",
        "COVEY_ENDPOINT",
        "COVEY_API_KEY",
        "COVEY_COMPILED",
        "COVEY_VENV",
        "COVEY_ENGINE_BUILD",
        "COVEY_ENGINE_PARENT_PID",
    }
)
# Kubernetes puts COVEY_SERVICE_HOST, COVEY_PORT_... into every container beside a service called covey.
_INJECTED = ("COVEY_SERVICE_", "COVEY_PORT")


@dataclass(frozen=True, slots=True)
class Loaded:
    """The configuration, and for each setting the name of the source that won."""

    configuration: Configuration
    sources: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Source:
    name: str
    values: Mapping[str, object]


def load(
    flags: Mapping[str, object],
    environ: Mapping[str, str] | None = None,
    file: Path | None = None,
    system_file: Path = SYSTEM_SETTINGS,
) -> Loaded:
    """`flags` holds only what was given. `file` replaces both usual files. Raises ConfigurationError."""
    environ = os.environ if environ is None else environ
    _refuse_unknown(flags, "flags")
    strong = [_Source("environment", _from_environment(environ)), _Source("flag", flags)]
    weak = [_from_file(path) for path in _files(file, environ, system_file)]
    state_dir = _pick([*weak, *strong], "state_dir") or default_state_dir(environ)
    own = state_dir / SETTINGS_NAME
    if not _named(file, environ) and own.is_file():
        weak.append(_from_file(own))
    return _combine([*weak, *strong], state_dir, environ)


def _named(file: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The settings file that was asked for by name, if any."""
    if file is not None:
        return file
    return Path(environ["COVEY_CONFIG"]) if environ.get("COVEY_CONFIG") else None


def _files(file: Path | None, environ: Mapping[str, str], system_file: Path) -> Iterator[Path]:
    named = _named(file, environ)
    if named is not None:
        if not named.exists():
            raise ConfigurationError(f"there is no settings file {named}", "check --config or COVEY_CONFIG")
        yield named
    elif system_file.is_file():
        yield system_file


def _combine(sources: list[_Source], state_dir: Path, environ: Mapping[str, str]) -> Loaded:
    values: dict[str, Any] = {"state_dir": state_dir}
    winners = dict.fromkeys(fields(), "default")
    for source in sources:
        for name, value in source.values.items():
            values[name] = _read(name, value, source.name)
            winners[name] = source.name
    values.setdefault("runtime_dir", default_runtime_dir(environ, state_dir))
    configuration = Configuration(**values)
    configuration.check()
    return Loaded(configuration, winners)


def _pick(sources: list[_Source], name: str) -> Path | None:
    for source in reversed(sources):
        if name in source.values:
            found: Path = _read(name, source.values[name], source.name)
            return found
    return None


def _read(name: str, value: object, source: str) -> Any:
    try:
        return fields()[name].metadata["reader"](value)
    except ValueError as error:
        raise ConfigurationError(f"{name} {error} (from {source})", "see docs/configuration.md") from None


def _from_file(path: Path) -> _Source:
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}", "check its permissions") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}", "mend that line") from None
    _refuse_unknown(values, str(path))
    return _Source(str(path), values)


def _from_environment(environ: Mapping[str, str]) -> dict[str, object]:
    found: dict[str, object] = {}
    for variable, value in environ.items():
        if not variable.startswith(PREFIX) or variable in COMMAND_VARIABLES or variable.startswith(_INJECTED):
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name not in fields():
            close = nearest(name)
            hint = f"did you mean {PREFIX}{close.upper()}?" if close else "see docs/configuration.md"
            raise ConfigurationError(f"unknown environment variable {variable}", hint)
        found[name] = value
    return found


def _refuse_unknown(values: Mapping[str, object], where: str) -> None:
    for name in values:
        if name not in fields():
            close = nearest(name)
            hint = f"did you mean {close}?" if close else "see docs/configuration.md"
            raise ConfigurationError(f"unknown setting {name} in {where}", hint)


def nearest(name: str) -> str | None:
    """The known setting that is spelt most alike, if one is near."""
    found = difflib.get_close_matches(name.replace("-", "_"), fields(), n=1, cutoff=0.6)
    return found[0] if found else None

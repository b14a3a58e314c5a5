"""Where covey keeps things on this machine, by the XDG base directory rules.

The state directory holds what must survive a restart (keys, certificates, ballot, known peers). The runtime directory
holds sockets: short, since a Unix socket's path may have 107 bytes only.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from covey.errors import ConfigurationError

SOCKET_PATH_BYTES_MAX = 107
CONTROL_SOCKET = "agent.sock"
SYSTEM_SETTINGS = Path("/etc/covey/covey.toml")
SETTINGS_NAME = "covey.toml"


def default_state_dir(environ: Mapping[str, str]) -> Path:
    """systemd's StateDirectory= when given, else $XDG_STATE_HOME/covey."""
    if given := environ.get("STATE_DIRECTORY"):
        return Path(given.split(":")[0])
    base = environ.get("XDG_STATE_HOME") or Path(environ.get("HOME") or Path.home()) / ".local" / "state"
    return Path(base) / "covey"


def default_runtime_dir(environ: Mapping[str, str], state_dir: Path) -> Path:
    """One folder for each state directory, so that two agents on one machine never share a socket."""
    tag = hashlib.sha256(str(state_dir.absolute()).encode()).hexdigest()[:8]
    for name in ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"):
        base = environ.get(name, "").split(":")[0]
        if base and os.access(base, os.W_OK):
            return Path(base) / "covey" / tag if name == "XDG_RUNTIME_DIR" else Path(base)
    return Path("/tmp") / f"covey-{os.getuid()}" / tag


def make_private(folder: Path) -> None:
    """Create `folder` readable by this user alone; refuse one that somebody else has put there."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for level in (folder, folder.parent):
        found = os.lstat(level)
        shared = level == folder or level.parent == Path("/tmp")
        if shared and (not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid()):
            raise ConfigurationError(
                f"{level} belongs to somebody else", "remove it, or name another folder with --runtime-dir"
            )
        if level == folder or (shared and level.name.startswith("covey-")):
            os.chmod(level, 0o700)


def check_socket_room(runtime_dir: Path, longest_name: str = "engine-00000000.sock") -> None:
    """Raise ConfigurationError where a socket's path inside would be too long for the system."""
    length = len(os.fsencode(runtime_dir / longest_name))
    if length > SOCKET_PATH_BYTES_MAX:
        raise ConfigurationError(
            f"runtime_dir {runtime_dir} is too long for Unix sockets ({length} of {SOCKET_PATH_BYTES_MAX} bytes)",
            "set runtime_dir (--runtime-dir, COVEY_RUNTIME_DIR) to a shorter path",
        )

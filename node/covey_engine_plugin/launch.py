"""Becomes an engine that dies with the agent: `python -m covey_engine_plugin.launch COMMAND ARGUMENT...`.

The agent runs threads (gRPC), so it cannot safely run code between fork and exec; this small program does it after
the exec instead, then replaces itself by the engine. It must be started by the agent's main thread: the kernel's
parent is the thread that forked.
"""

from __future__ import annotations

import os
import sys

from covey_engine_plugin import PARENT_VARIABLE
from covey_engine_plugin.death import die_with_parent


def main(arguments: list[str]) -> None:
    """Does not return. Exits 64 when used wrongly, 127 when the command cannot be executed."""
    agent = os.environ.get(PARENT_VARIABLE, "")
    if not arguments or not agent.isdecimal():
        sys.stderr.write(f"usage: {PARENT_VARIABLE}=PID python -m covey_engine_plugin.launch COMMAND ARGUMENT...\n")
        raise SystemExit(64)
    die_with_parent(int(agent))
    try:
        os.execvp(arguments[0], arguments)
    except OSError as error:
        sys.stderr.write(f"cannot execute {arguments[0]}: {error.strerror}\n")
        raise SystemExit(127) from error


if __name__ == "__main__":
    main(sys.argv[1:])

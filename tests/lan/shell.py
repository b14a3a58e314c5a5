"""Runs the system tools that a lab is made of, with a time limit and the tool's own words in the error."""

from __future__ import annotations

import subprocess

TOOL_TIMEOUT_S = 20.0


class ToolError(Exception):
    """A tool failed; the message holds its command line and what it said."""


def tool(*argv: str, check: bool = True, stdin: str | None = None) -> str:
    """Standard output of one short command. ToolError unless it succeeds or `check` is False."""
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=TOOL_TIMEOUT_S, check=False)
    if check and done.returncode != 0:
        raise ToolError(f"{' '.join(argv)}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def ip(*arguments: str, check: bool = True) -> str:
    """iproute2's `ip`."""
    return tool("ip", *arguments, check=check)

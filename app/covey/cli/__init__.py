"""The covey command. Each command's module imports what it needs when it runs: `covey --help` stays quick."""

from __future__ import annotations

import sys

from covey import compiled

__all__ = ["main"]


def main() -> None:
    """Entry point of the `covey` script."""
    compiled.use()
    from covey.cli.group import cli  # only now: it imports what may be compiled

    try:
        cli(prog_name="covey")
    except BrokenPipeError:
        # The reader of our output (head, less) has gone; Python would complain again while closing.
        sys.stderr.close()
        sys.exit(0)

"""What a user can get wrong, and the exit codes that scripts can rely on.

Not here: our own bugs, which stay ordinary exceptions and end with a traceback.
"""

from __future__ import annotations

import enum


class ExitCode(enum.IntEnum):
    """Exit codes of every covey command; documented in docs/cli.md."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NO_AGENT = 3
    NOT_FOUND = 4
    UNHEALTHY = 5
    INTERRUPTED = 130


class UserError(Exception):
    """Something the user can mend. `next_step` says how, in the imperative."""

    def __init__(self, message: str, next_step: str = "", exit_code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.next_step = next_step
        self.exit_code = exit_code


class RefusedError(UserError):
    """An agent answered with an HTTP status that is no success."""

    def __init__(self, message: str, next_step: str, exit_code: ExitCode, status: int) -> None:
        super().__init__(message, next_step, exit_code)
        self.status = status


class ConfigurationError(UserError):
    """A setting that cannot be used."""

    def __init__(self, message: str, next_step: str = "") -> None:
        super().__init__(message, next_step, ExitCode.USAGE)

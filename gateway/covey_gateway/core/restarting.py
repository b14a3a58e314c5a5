"""When a gateway process that ended is started again. Not here: starting it (io/processes/supervisor.py)."""

from __future__ import annotations

FIRST_PAUSE_S = 0.1
PAUSE_MAX_S = 10.0
"""The agent itself and the other processes answer meanwhile."""

STEADY_S = 30.0
"""A process that lived so long is not taken for one that cannot start."""


def restart_pause_s(ended_in_a_row: int) -> float:
    """Doubled each time. `ended_in_a_row`: processes that did not live for STEADY_S, the last included."""
    return min(PAUSE_MAX_S, FIRST_PAUSE_S * 2.0 ** min(max(0, ended_in_a_row - 1), 16))


def in_a_row(before: int, lived_s: float) -> int:
    """The next `ended_in_a_row`."""
    return 1 if lived_s >= STEADY_S else before + 1

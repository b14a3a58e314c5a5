"""Which process of its agent took a request: its id says so, behind the gateway's own part of it.

`req-1a2b3c4d-2p0f3c...` was taken by process 2; ids of the agent's own process have no such part.
"""

from __future__ import annotations

import re

PROCESSES_MAX = 64
"""Gateway processes of one agent, its own included."""

_TAKEN_BY = re.compile(r"req-[0-9a-f]{1,8}-(\d{1,2})p")


def local_part(process: int, bits: int) -> str:
    """The last part of an id. `bits`: 44 random ones."""
    return f"{process}p{bits:011x}"


def process_of(request_id: str) -> int:
    """0: the agent's own, or no id of a request here."""
    found = _TAKEN_BY.match(request_id)
    return int(found[1]) if found else 0

"""JSON lines between a test and its program: events on standard output, commands on standard input."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from typing import Any


def emit(event: str, **fields: Any) -> None:
    """Print one event with the time since boot in seconds."""
    print(json.dumps({"event": event, "at_s": time.clock_gettime(time.CLOCK_BOOTTIME), **fields}), flush=True)


async def commands() -> AsyncIterator[dict[str, Any]]:
    """Each command until the input ends."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield json.loads(line)

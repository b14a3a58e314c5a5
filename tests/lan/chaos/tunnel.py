"""A connected TCP socket, offered once on an abstract Unix socket: libraries that make their own sockets (gRPC) get one
of another network namespace in this way. Bytes are copied, not read.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

COPIED_BYTES_MAX = 64 * 1024


@contextlib.asynccontextmanager
async def tunnel(connected: socket.socket, name: str) -> AsyncIterator[None]:
    """While it lasts, the first who connects to `name` speaks with the peer of `connected`; the next are refused."""
    far_reader, far_writer = await asyncio.open_connection(sock=connected)
    copying: list[asyncio.Task[None]] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.close()
        if copying:
            writer.transport.abort()
            return
        copying.append(asyncio.create_task(_copy(reader, far_writer)))
        copying.append(asyncio.create_task(_copy(far_reader, writer)))

    server = await asyncio.start_unix_server(accept, "\0" + name)
    try:
        yield
    finally:
        server.close()
        for task in copying:
            task.cancel()
        await asyncio.gather(*copying, return_exceptions=True)
        far_writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until one side ends; then the other does."""
    try:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(COPIED_BYTES_MAX):
                writer.write(chunk)
                await writer.drain()
    finally:
        # Whole: what was written is still sent.
        writer.close()

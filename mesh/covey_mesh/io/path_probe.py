"""How far does a connection to a machine's link port get: TCP, TLS, small packets, full packets?

A connection of its own beside the link, so that the link is never in danger. Full packets are tried with an HTTP/2
frame of a type that nobody knows: RFC 9113 section 5.5 has the other side ignore it, and it must answer the PING behind
it. What passes small packets and swallows full ones is a path whose MTU is smaller than both ends believe, with the
ICMP messages that would say so filtered ("PMTU black hole", RFC 2923 section 2.1).

Not here: who is asked (the program), who is let in (accepting.py), opening real links (dialing.py).
"""

from __future__ import annotations

import asyncio
import enum
import os
import ssl
import struct
from dataclasses import dataclass

from covey_mesh.io.identity import Identity
from covey_mesh.io.tls_probe import CONNECT_TIMEOUT_S, HANDSHAKE_TIMEOUT_S, NotALinkError, checked_peer, split_address

FRAME_TIMEOUT_S = 1.2
"""For the answer to one PING: a lost packet may be sent again twice (after 0.2 and 0.6 s)."""

FULL_BYTES = 16_000
"""Fills several packets of any Ethernet, jumbo frames included, and fits HTTP/2's smallest limit of a frame."""

DETAIL_CHARS_MAX = 200

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEADER = struct.Struct("!BHBBI")
"""Length (8 and 16 bits), type, flags, stream."""

_SETTINGS, _PING, _UNKNOWN_TYPE = 0x4, 0x6, 0xFA
_ACK = 0x1
_PING_BYTES = 8


class Reach(enum.Enum):
    """How far it got; each includes those before it, except that REFUSED and UNTRUSTED are answers too."""

    SILENT = "silent"
    """No answer at all to TCP."""
    REFUSED = "refused"
    """The machine is there, nothing listens."""
    FROZEN = "frozen"
    """TCP connects (the kernel does that), the process never answers."""
    UNTRUSTED = "untrusted"
    """Something answers that is no machine of this pool, or another one than expected."""
    SMALL = "small"
    """Small packets pass, full ones do not."""
    WHOLE = "whole"
    """Everything passes."""


@dataclass(frozen=True, slots=True)
class PathProbe:
    """One address, tried once. `detail` is for people."""

    address: str
    reach: Reach
    detail: str = ""


class _PathError(Exception):
    def __init__(self, reach: Reach, detail: str) -> None:
        super().__init__(detail)
        self.reach, self.detail = reach, detail[:DETAIL_CHARS_MAX]


async def probe_path(
    address: str, expected: str, identity: Identity, context: ssl.SSLContext, now_unix_s: float
) -> PathProbe:
    """Try HOST:PORT of the machine `expected`. Never raises for what the network or the other side does."""
    try:
        reader, writer = await _connect(address)
    except _PathError as error:
        return PathProbe(address, error.reach, error.detail)
    try:
        await _handshake(address, expected, identity, context, now_unix_s, writer)
        await _try_frames(reader, writer)
    except _PathError as error:
        return PathProbe(address, error.reach, error.detail)
    finally:
        writer.transport.abort()
    return PathProbe(address, Reach.WHOLE)


async def probe_tcp(address: str) -> PathProbe:
    """Only whether something accepts a connection there: for ports that are no links."""
    try:
        _, writer = await _connect(address)
    except _PathError as error:
        return PathProbe(address, error.reach, error.detail)
    writer.transport.abort()
    return PathProbe(address, Reach.WHOLE)


async def _connect(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Raises _PathError."""
    try:
        host, port = split_address(address)
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            return await asyncio.open_connection(host, port)
    except ConnectionRefusedError:
        raise _PathError(Reach.REFUSED, "connection refused") from None
    except TimeoutError:
        raise _PathError(Reach.SILENT, f"no answer in {CONNECT_TIMEOUT_S} s") from None
    except (OSError, ValueError) as error:
        raise _PathError(Reach.SILENT, str(error)) from None


async def _handshake(
    address: str,
    expected: str,
    identity: Identity,
    context: ssl.SSLContext,
    now_unix_s: float,
    writer: asyncio.StreamWriter,
) -> None:
    """Raises _PathError."""
    try:
        async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
            await writer.start_tls(context, server_hostname="covey")
        found = checked_peer(writer.get_extra_info("ssl_object"), identity, now_unix_s)
    except (TimeoutError, ConnectionError) as error:
        # The certificates fill a packet: a path that swallows full ones already stops here.
        if await _answers_small(address):
            raise _PathError(Reach.SMALL, "connects, but the certificates do not come through") from error
        raise _PathError(Reach.FROZEN, f"connects, then nothing in {HANDSHAKE_TIMEOUT_S} s") from error
    except (OSError, NotALinkError) as error:
        raise _PathError(Reach.UNTRUSTED, str(error)) from error
    if found != expected:
        raise _PathError(Reach.UNTRUSTED, f"machine {found[:8]} answers there")


async def _answers_small(address: str) -> bool:
    """Whether the process behind the port reacts to a few bytes of nonsense, by an alert or by closing."""
    try:
        reader, writer = await _connect(address)
    except _PathError:
        return False
    try:
        writer.write(b"GET\r\n\r\n")
        async with asyncio.timeout(FRAME_TIMEOUT_S):
            await reader.read(1)
    except TimeoutError:
        return False
    except OSError:
        return True
    finally:
        writer.transport.abort()
    return True


async def _try_frames(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Raises _PathError."""
    try:
        await _ping(reader, writer, _PREFACE + _frame(_SETTINGS))
    except (TimeoutError, OSError, asyncio.IncompleteReadError) as error:
        raise _PathError(Reach.FROZEN, f"speaks TLS, then nothing in {FRAME_TIMEOUT_S} s") from error
    try:
        await _ping(reader, writer, _frame(_UNKNOWN_TYPE, bytes(FULL_BYTES)))
    except (TimeoutError, OSError, asyncio.IncompleteReadError) as error:
        detail = f"small packets pass, {FULL_BYTES} bytes at once do not in {FRAME_TIMEOUT_S} s"
        raise _PathError(Reach.SMALL, detail) from error


async def _ping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, before: bytes) -> None:
    """Send `before` and a PING; returns with its answer. Raises TimeoutError, OSError, IncompleteReadError."""
    wanted = os.urandom(_PING_BYTES)
    writer.write(before + _frame(_PING, wanted))
    async with asyncio.timeout(FRAME_TIMEOUT_S):
        while True:
            high, low, kind, flags, _ = _HEADER.unpack(await reader.readexactly(_HEADER.size))
            content = await reader.readexactly((high << 16) + low)
            if kind != _PING:
                continue
            if flags & _ACK and content == wanted:
                return
            if not flags & _ACK:
                writer.write(_frame(_PING, content, _ACK))


def _frame(kind: int, content: bytes = b"", flags: int = 0) -> bytes:
    return _HEADER.pack(len(content) >> 16, len(content) & 0xFFFF, kind, flags, 0) + content

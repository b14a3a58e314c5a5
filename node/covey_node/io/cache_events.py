"""Listens to vLLM's KV-cache events: ZeroMQ messages on a Unix socket of the runtime folder.

Each message is (topic, sequence number, MessagePack), as in vllm/distributed/kv_events.py of vLLM 0.32; fields that are
not read are not decoded. pyzmq comes with vLLM; where it is missing, nothing is listened to. A gap in the numbers, or
anything that cannot be read, ends the counting for this life of the engine: it is told once, and nothing depends on it.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from covey_node.core.cache_contents import CacheContents

MESSAGES_WAITING_MAX = 10_000
"""In ZeroMQ's own queue; more are dropped there, which shows as a gap."""

MESSAGES_AT_ONCE_MAX = 64
"""Then the loop has its turn."""

MESSAGE_BYTES_MAX = 16 * 1024 * 1024
LOOK_EVERY_S = 1.0
"""ZeroMQ's file descriptor tells of changes only; what it did not tell is found at this pace."""

FIRST_GROUP = (None, 0)
"""Models with several kinds of attention tell the same tokens for each; the first kind is counted."""

log = logging.getLogger(__name__)


class _Stored(msgspec.Struct, tag="BlockStored"):
    block_hashes: list[int | bytes]
    block_size: int
    parent_block_hash: int | bytes | None = None
    group_idx: int | None = None


class _Removed(msgspec.Struct, tag="BlockRemoved"):
    block_hashes: list[int | bytes]
    group_idx: int | None = None


class _Cleared(msgspec.Struct, tag="AllBlocksCleared"):
    pass


class _Batch(msgspec.Struct, array_like=True):
    ts: float
    events: list[_Stored | _Removed | _Cleared]


_decode = msgspec.msgpack.Decoder(_Batch).decode


def available() -> bool:
    """pyzmq can be imported."""
    return importlib.util.find_spec("zmq") is not None


def endpoint(path: Path) -> str:
    return f"ipc://{path}"


class CacheEvents:
    """One engine's, from `start` to `close`. Runs on the loop's thread; ZeroMQ has a thread of its own."""

    def __init__(self, path: Path, contents: CacheContents) -> None:
        self._path = path
        self._contents = contents
        self._socket: Any = None
        self._next: int | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """May be called before the engine is there."""
        zmq = importlib.import_module("zmq")
        self._again = zmq.Again
        self._no_wait = zmq.NOBLOCK
        self._socket = zmq.Context.instance().socket(zmq.SUB)
        self._socket.setsockopt(zmq.RCVHWM, MESSAGES_WAITING_MAX)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MESSAGE_BYTES_MAX)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SUBSCRIBE, b"")
        self._socket.connect(endpoint(self._path))
        self._fd = self._socket.getsockopt(zmq.FD)
        asyncio.get_running_loop().add_reader(self._fd, self._read)
        self._read()

    def close(self) -> None:
        """Safe to call twice."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._fd)
            self._socket.close()
            self._socket = None

    def _read(self) -> None:
        """All that is there, with a pause after MESSAGES_AT_ONCE_MAX."""
        if self._socket is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        for _ in range(MESSAGES_AT_ONCE_MAX):
            try:
                parts = self._socket.recv_multipart(self._no_wait)
            except self._again:
                self._timer = loop.call_later(LOOK_EVERY_S, self._read)
                return
            self.take(parts)
        self._timer = loop.call_later(0.0, self._read)

    def take(self, parts: Sequence[bytes]) -> None:
        """One message."""
        contents = self._contents
        if not contents.known:
            return
        try:
            _, number, payload = parts
            sequence, batch = int.from_bytes(number, "big"), _decode(payload)
        except (ValueError, msgspec.MsgspecError) as error:
            self._lost(f"a message that cannot be read: {error}")
            return
        # The first may have been missed while nobody had connected: what it told of was told when it is removed.
        if self._next is not None and sequence != self._next:
            self._lost(f"message {sequence} came instead of {self._next}")
            return
        self._next = sequence + 1
        for event in batch.events:
            apply(contents, event)

    def _lost(self, why: str) -> None:
        self._contents.lost()
        log.info("cache events of an engine are not followed any more", extra={"cause": why})


def apply(contents: CacheContents, event: _Stored | _Removed | _Cleared) -> None:
    if isinstance(event, _Cleared):
        contents.cleared()
    elif event.group_idx not in FIRST_GROUP:
        return
    elif isinstance(event, _Stored):
        contents.stored(event.block_hashes, event.block_size, begins=event.parent_block_hash is None)
    else:
        contents.removed(event.block_hashes)

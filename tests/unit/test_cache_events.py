"""What an engine tells of its prefix cache: counted, bounded, and given up once a message is missing."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from covey_node.core import cache_contents
from covey_node.core.cache_contents import CacheContents
from covey_node.io import cache_events
from covey_node.io.cache_events import CacheEvents, available, endpoint


def counted(contents: CacheContents) -> tuple[int, int]:
    return contents.held_tokens, contents.evicted_tokens


def test_blocks_are_counted_once_and_evicted_once() -> None:
    contents = CacheContents()
    contents.stored([1, 2, 3], 16)
    contents.stored([3, b"four"], 16)
    assert counted(contents) == (64, 0)
    contents.removed([1, b"four", 99])
    contents.removed([1])
    assert counted(contents) == (32, 32)
    contents.cleared()
    assert counted(contents) == (0, 64)


def test_absurd_blocks_are_none() -> None:
    contents = CacheContents()
    contents.stored([1], 0)
    contents.stored([2], -16)
    assert counted(contents) == (0, 0)


def test_more_blocks_than_are_believable_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_contents, "BLOCKS_MAX", 10)
    contents = CacheContents()
    contents.stored(range(11), 16)
    assert not contents.known
    contents.stored([1], 16)
    assert counted(contents) == (0, 0)


def stored(*hashes: int, **more: Any) -> dict[str, Any]:
    """As vLLM 0.32 sends it, with what is not read here."""
    return {
        "type": "BlockStored", "block_hashes": list(hashes), "parent_block_hash": None, "token_ids": [1] * 16,
        "block_size": 16, "lora_id": None, "medium": "GPU", "lora_name": None, **more,
    }  # fmt: skip


def removed(*hashes: int, **more: Any) -> dict[str, Any]:
    return {"type": "BlockRemoved", "block_hashes": list(hashes), "medium": "GPU", **more}


def message(number: int, *events: dict[str, Any]) -> list[bytes]:
    return [b"", number.to_bytes(8, "big"), msgspec.msgpack.encode([1.5, list(events), 0])]


def taken(*messages: list[bytes]) -> CacheContents:
    contents = CacheContents()
    listener = CacheEvents(Path("/nowhere"), contents)
    for each in messages:
        listener.take(each)
    return contents


def test_messages_in_order() -> None:
    contents = taken(message(7, stored(1, 2)), message(8, stored(3), removed(1)), message(9))
    assert (counted(contents), contents.known) == ((32, 16), True)
    assert counted(taken(message(0, stored(1)), message(1, {"type": "AllBlocksCleared"}))) == (0, 16)


def test_only_the_first_kind_of_attention_is_counted() -> None:
    told = message(0, stored(1, group_idx=0), stored(1, group_idx=1), removed(1, group_idx=1), stored(2, group_idx=2))
    assert counted(taken(told)) == (16, 0)


@pytest.mark.parametrize(
    "bad",
    [
        message(3),  # one is missing
        message(0),  # again
        [b""],
        [b"", b"\0" * 7 + b"\1", b"\xc1"],
        [b"", b"\0" * 7 + b"\1", b""],
        [b"", b"\0" * 7 + b"\1", msgspec.msgpack.encode({"a": 1})],
        message(1, {"type": "SomethingNew"}),
        message(1, {"type": "BlockStored", "block_hashes": "x", "block_size": 16}),
        message(1, {"type": "BlockStored", "block_hashes": [1]}),
        [b"", b"\0" * 7 + b"\1", msgspec.msgpack.encode([1.5, [[[[[]]]]]])],
    ],
)
def test_what_is_missing_or_cannot_be_read_ends_the_counting(bad: list[bytes]) -> None:
    contents = taken(message(0, stored(1)), bad, message(2, stored(2)))
    assert (counted(contents), contents.known) == ((0, 0), False)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 (another thread changes it)
            await asyncio.sleep(0.01)


@pytest.mark.asyncio
async def test_over_a_real_socket_in_any_order_of_starting() -> None:
    zmq = pytest.importorskip("zmq")
    assert available()
    contents = CacheContents()
    with tempfile.TemporaryDirectory(prefix="cvy", dir="/tmp") as folder:
        path = Path(folder) / "e.kv"
        listener = CacheEvents(path, contents)
        listener.start()
        publisher = zmq.Context.instance().socket(zmq.PUB)
        publisher.setsockopt(zmq.LINGER, 0)
        publisher.bind(endpoint(path))
        try:
            # Nobody is told when a subscriber has arrived: the first numbers may be missed.
            number = 0
            while not contents.held_tokens:
                publisher.send_multipart(message(number, stored(number)))
                number += 1
                await asyncio.sleep(0.05)
            first = contents.held_tokens
            for _ in range(cache_events.MESSAGES_AT_ONCE_MAX * 2):
                publisher.send_multipart(message(number, stored(number)))
                number += 1
            await until(lambda: contents.held_tokens >= first + cache_events.MESSAGES_AT_ONCE_MAX * 2 * 16)
            assert contents.known
        finally:
            publisher.close()
            listener.close()
            listener.close()


def test_without_pyzmq_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_events.importlib.util, "find_spec", lambda name: None)
    assert not available()


def test_prompts_are_told_from_answers() -> None:
    contents = taken(
        message(0, stored(1)),  # a prompt's beginning
        message(1, stored(2, parent_block_hash=1)),  # an answer fills a block
        message(2, stored(3, 4, parent_block_hash=2)),  # a prompt goes on
        message(3, stored(3, 4, parent_block_hash=2)),  # again: cached
    )
    assert (contents.prompt_tokens, contents.held_tokens) == (48, 64)

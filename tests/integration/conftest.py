"""Pools shared by the tests of this folder: an engine's start costs half a minute, so each is started once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from covey.demo.pool import DemoPool


@pytest.fixture(scope="session")
def vllm_pool() -> Iterator[DemoPool]:
    """Two real agents: the chat model on both, the embedding model on the first. Tests leave it as it was."""
    with DemoPool("vllm") as pool:
        pool.start(lambda *_: None)
        pool.wait_ready(lambda *_: None)
        yield pool

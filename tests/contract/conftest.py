"""One suite, two engines. vLLM is started once a session, on a loop and a thread of its own that outlives each test."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from covey_mesh.core.facts import Task
from covey_node.core.engine import Engine, EngineInfo
from covey_node.core.settings import ModelSpec, NodeSettings
from covey_node.core.simulated import SimulatedSettings
from covey_node.core.vllm_command import Host
from covey_node.io.model_card import read_card
from covey_node.io.simulated import SimulatedEngine
from covey_node.io.vllm import VllmEngine

DEMO_MODELS = Path(__file__).parents[2] / "app" / "covey" / "demo_models"
QUEUE_LIMIT = 8
"""Of the engines under test, so that a handful of requests overloads them."""


@dataclass
class Subject:
    """An engine that is ready, and what it says of itself."""

    engine: Engine
    info: EngineInfo

    @property
    def simulated(self) -> SimulatedEngine:
        assert isinstance(self.engine, SimulatedEngine)
        return self.engine


def vllm_engine(task: Task, runtime_dir: str) -> VllmEngine:
    name = "covey-demo-embed" if task is Task.EMBED else "covey-demo-chat"
    spec = ModelSpec(
        name=name,
        path=str(DEMO_MODELS / name),
        task=task,
        kv_cache_bytes=64 * 1024**2,
        extra_args=("--max-num-queued-reqs", str(QUEUE_LIMIT)),
    ).validated()
    settings = NodeSettings(runtime_dir=runtime_dir).validated()
    return VllmEngine(spec, read_card(spec.path), settings, Host("cpu", 1, 4 * 1024**3))


def simulated_engine(task: Task) -> SimulatedEngine:
    settings = SimulatedSettings(decode_tokens_per_s=600.0, max_context_tokens=2048, queue_limit=QUEUE_LIMIT)
    name = "covey-demo-embed" if task is Task.EMBED else "covey-demo-chat"
    return SimulatedEngine(ModelSpec(name=name, engine="simulated", task=task, simulated=settings))


@pytest.fixture(scope="session")
def runtime_dir() -> Iterator[str]:
    """Short: a Unix socket's path holds 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="cvy", dir="/tmp") as folder:
        yield folder


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def vllm_chat(runtime_dir: str) -> AsyncIterator[Subject]:
    engine = vllm_engine(Task.GENERATE, runtime_dir)
    info = await engine.start(print)
    yield Subject(engine, info)
    await engine.stop(1.0)


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def vllm_embed(runtime_dir: str) -> AsyncIterator[Subject]:
    engine = vllm_engine(Task.EMBED, runtime_dir)
    info = await engine.start(print)
    yield Subject(engine, info)
    await engine.stop(1.0)


@pytest_asyncio.fixture(loop_scope="session")
async def simulated_chat() -> AsyncIterator[Subject]:
    engine = simulated_engine(Task.GENERATE)
    info = await engine.start(print)
    yield Subject(engine, info)
    await engine.stop(0.0)


@pytest_asyncio.fixture(loop_scope="session")
async def simulated_embed() -> AsyncIterator[Subject]:
    engine = simulated_engine(Task.EMBED)
    info = await engine.start(print)
    yield Subject(engine, info)
    await engine.stop(0.0)


BOTH = ["simulated", pytest.param("vllm", marks=[pytest.mark.vllm, pytest.mark.timeout(600)])]


@pytest.fixture(params=BOTH)
def chat(request: pytest.FixtureRequest) -> Subject:
    found = request.getfixturevalue(f"{request.param}_chat")
    assert isinstance(found, Subject)
    return found


@pytest.fixture(params=BOTH)
def embed(request: pytest.FixtureRequest) -> Subject:
    found = request.getfixturevalue(f"{request.param}_embed")
    assert isinstance(found, Subject)
    return found

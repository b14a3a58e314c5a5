"""The Engine adapter for vLLM: `vllm serve` in a process of its own, on a Unix socket in a private folder.

Ready means that it answered a real request of one token (or one embedding), not that a port is open. Starting is given
up when the process ends, when it falls silent, or when it takes longer than settings allow; EngineStartError then
carries its last words. The command line and environment are in covey_node.core.vllm_command.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from covey_mesh.core.exchange import Failure, ForwardedRequest, PiecewiseSink, ResponseSink, Upstream
from covey_mesh.core.facts import Task
from covey_node.core import vllm_command
from covey_node.core.cache_contents import CacheContents
from covey_node.core.engine import EngineInfo, EngineStartError
from covey_node.core.settings import ModelSpec, NodeSettings
from covey_node.core.start_progress import phase
from covey_node.io import cache_events
from covey_node.io.cache_events import CacheEvents
from covey_node.io.engine_process import EngineProcess
from covey_node.io.http_client import EngineClient
from covey_node.io.model_card import ModelCard
from covey_node.io.runtime_files import folder_of, private_folder

POLL_S = 0.2
ASK_TIMEOUT_S = 120.0
"""For the first answer of a loaded engine: kernels may still be compiled for it."""

PROGRESS_EVERY_S = 1.0
SPARE_CONNECTIONS = 8
"""Beyond the running limit: for probes, and for a connection that closes while the next opens."""

_KV_TOKENS = re.compile(rb'kv_cache_size_tokens="(\d+)"')
_KV_USAGE = re.compile(rb"^vllm:kv_cache_usage_perc\{[^}]*\} ([0-9.e+-]+)", re.MULTILINE)


class VllmEngine:
    """One start-to-stop life of one vLLM (covey_node.core.engine.Engine). `spec.task` must be resolved."""

    def __init__(self, spec: ModelSpec, card: ModelCard, settings: NodeSettings, host: vllm_command.Host) -> None:
        self._spec = spec
        self._card = card
        self._settings = settings
        self._host = host
        self._process: EngineProcess | None = None
        self._client: EngineClient | None = None
        self._heard_s = 0.0
        self._phase = "starting vLLM"
        self._kv_tokens = 0
        self._stopping = False
        self.cache = CacheContents()
        self._events: CacheEvents | None = None

    async def start(self, progress: Callable[[str], None]) -> EngineInfo:
        folder = private_folder(folder_of(self._settings.runtime_dir))
        process = self._process = EngineProcess(folder, self._line)
        heard = self._listen(process.events_path)
        args = vllm_command.arguments(self._spec, self._card.extra_args, str(process.socket_path), self._host, heard)
        limit = int(vllm_command.last_value(args, "--max-num-seqs") or vllm_command.RUNNING_LIMIT_DEFAULT)
        command = self._settings.engine_command or (sys.executable, "-m", "vllm.entrypoints.cli.main")
        env = vllm_command.environment(os.environ, self._host, os.getpid(), process.token)
        self._heard_s = time.monotonic()
        try:
            await process.start([*command, *args], env)
            self._client = EngineClient(str(process.socket_path), limit + SPARE_CONNECTIONS)
            context = await self._until_answering(progress)
            self._kv_tokens = await self._kv_capacity()
        except BaseException:
            self._stop_listening()
            await process.end()
            raise
        task = self._spec.task or Task.GENERATE
        return EngineInfo("vllm", self._spec.name, task, context, self._kv_tokens, limit)

    def open(self, request: ForwardedRequest, sink: ResponseSink) -> Upstream:
        assert self._client is not None, "open before start"
        return self._client.open("POST", request.path, request.body, sink)

    async def stop(self, grace_s: float) -> None:
        self._stopping = True
        client, process = self._client, self._process
        if client is not None:
            await client.drained(grace_s)
            client.close()
        self._stop_listening()
        if process is not None:
            await process.end()

    async def wait_died(self) -> str:
        assert self._process is not None, "wait_died before start"
        how = await asyncio.shield(self._process.died)
        return f"vLLM {how}: {self._process.tail.cause()}"

    async def cached_tokens_free(self) -> int | None:
        if self._client is None or not self._kv_tokens:
            return None
        status, body = await ask(self._client, "GET", "/metrics", b"", POLL_S * 10)
        found = _KV_USAGE.search(body) if status == 200 else None
        return round(self._kv_tokens * (1.0 - float(found[1]))) if found else None

    @property
    def pid(self) -> int | None:
        """Of the serving process, once started."""
        return self._process.pid if self._process is not None else None

    def process_ids(self) -> list[int]:
        """All its living processes. Reads /proc; may be called from any thread."""
        return self._process.note.processes() if self._process is not None else []

    def _listen(self, path: Path) -> str:
        """The endpoint on which the engine shall tell of its cache; empty where nobody can listen."""
        if self._spec.task is Task.EMBED or not cache_events.available():
            self.cache.lost()
            return ""
        self._events = CacheEvents(path, self.cache)
        self._events.start()
        return cache_events.endpoint(path)

    def _stop_listening(self) -> None:
        if self._events is not None:
            self._events.close()

    def _line(self, line: str) -> None:
        self._heard_s = time.monotonic()
        self._phase = phase(line) or self._phase

    async def _until_answering(self, progress: Callable[[str], None]) -> int:
        """Reports the phase whenever it changes, and the time every second; returns the engine's context length."""
        assert self._client is not None
        begun_s = time.monotonic()
        said, said_s = "", begun_s
        models = b""
        while not models:
            await self._check_alive(begun_s)
            now_s = time.monotonic()
            if self._phase != said or now_s - said_s >= PROGRESS_EVERY_S:
                said, said_s = self._phase, now_s
                progress(f"{said}, {now_s - begun_s:.0f} s")
            if self._process is not None and self._process.socket_path.exists():  # bound early, answering late
                status, body = await ask(self._client, "GET", "/v1/models", b"", ASK_TIMEOUT_S)
                models = body if status == 200 else b""
        progress(f"asking a first question, {time.monotonic() - begun_s:.0f} s")
        status, answer = await ask(self._client, "POST", *self._first_question(), ASK_TIMEOUT_S)
        if status != 200:
            raise self._failed(f"vLLM loaded but did not answer its first question ({status}): {answer[:300]!r}")
        return read_context_tokens(models)

    async def _check_alive(self, begun_s: float) -> None:
        """Waits one poll; raises when the process ended, fell silent or is late."""
        assert self._process is not None
        await asyncio.wait([self._process.died], timeout=POLL_S)
        now_s = time.monotonic()
        if self._process.died.done():
            raise self._failed(f"vLLM {self._process.died.result()} while starting")
        if now_s - self._heard_s > self._settings.start_silence_s:
            raise self._failed(f"vLLM printed nothing for {self._settings.start_silence_s:.0f} s while {self._phase}")
        if now_s - begun_s > self._settings.start_timeout_s:
            raise self._failed(f"vLLM was not ready after {self._settings.start_timeout_s:.0f} s")

    def _first_question(self) -> tuple[str, bytes]:
        if self._spec.task is Task.EMBED:
            return "/v1/embeddings", msgspec.json.encode({"model": self._spec.name, "input": "covey"})
        question = {"model": self._spec.name, "prompt": "covey", "max_tokens": 1}
        return "/v1/completions", msgspec.json.encode(question)

    async def _kv_capacity(self) -> int:
        """Tokens; 0 where the engine has no KV cache (embedding models)."""
        assert self._client is not None
        status, body = await ask(self._client, "GET", "/metrics", b"", ASK_TIMEOUT_S)
        found = _KV_TOKENS.search(body) if status == 200 else None
        return int(found[1]) if found else 0

    def _failed(self, what: str) -> EngineStartError:
        assert self._process is not None
        advice = f"Check that `vllm serve {self._spec.path}` works by itself, then start again."
        return EngineStartError(f"{what}.\n{self._process.tail.last()}\n{advice}")


def read_context_tokens(body: bytes) -> int:
    """max_model_len of the first model of /v1/models; 0 where it is not said."""
    try:
        return msgspec.json.decode(body, type=_Models).data[0].max_model_len or 0
    except (msgspec.DecodeError, IndexError):
        return 0


class _Model(msgspec.Struct):
    max_model_len: int | None = None


class _Models(msgspec.Struct):
    data: list[_Model]


@dataclass
class _Collected(PiecewiseSink):
    """A sink that gathers a small answer."""

    done: asyncio.Future[tuple[int, bytes]]
    status: int = 0
    body: bytes = b""

    def head(self, status: int, content_type: str, retry_after_s: int = 0) -> None:
        self.status = status

    def data(self, chunk: bytes) -> None:
        self.body += chunk

    def end(self, failure: Failure | None) -> None:
        if not self.done.done():
            self.done.set_result((503, failure.message.encode()) if failure else (self.status, self.body))


async def ask(client: EngineClient, method: str, path: str, body: bytes, timeout_s: float) -> tuple[int, bytes]:
    """One small question of our own to the engine: (status, body); 503 for any failure, 504 when late."""
    collected = _Collected(asyncio.get_running_loop().create_future())
    request = client.open(method, path, body, collected)
    try:
        return await asyncio.wait_for(collected.done, timeout_s)
    except TimeoutError:
        return 504, b"no answer"
    finally:
        request.cancel()

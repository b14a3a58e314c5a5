"""The measuring instruments, compiled once: an engine that costs nothing and a closed loop of clients.

Not here: what stands between the two (peers.py, pools.py), and what is measured in which order (measuring.py).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.datapath.processes import CACHE, Server, free_port

SOURCES = Path(__file__).resolve().parent
STAND_IN = CACHE / "engine_stand_in"
LOAD_GENERATOR = CACHE / "load_generator"
CHAT = "/v1/chat/completions"
MODEL = "stand-in"
PROMPT = "The clerk wrote down what had been said, and read it out again so that nobody could be mistaken. " * 8


@dataclass(frozen=True)
class Load:
    """What the clients ask: `tokens` an answer, `interval_us` between two of a stream, and before the first unless that
    comes at once."""

    connections: int
    stream: bool
    tokens: int
    interval_us: int
    first_at_once: bool = False

    def body(self) -> str:
        """Every request's prompt differs in the middle, as questions behind a common instruction do."""
        # In a message: routers may drop fields that they do not know.
        told = f"interval-us={self.interval_us}" + (" first-at-once" if self.first_at_once else "")
        messages = [
            {"role": "system", "content": f"{PROMPT}{told}"},
            {"role": "user", "content": "Case @@@@@@@@: what now?"},
        ]
        return json.dumps({"model": MODEL, "messages": messages, "max_tokens": self.tokens, "stream": self.stream})


@dataclass(frozen=True)
class Measured:
    """One run of the load generator: seconds and microseconds as it prints them, and CPU seconds of the target."""

    seconds: float
    completed: int
    tokens: int
    failed: int
    first_p50_us: float
    first_p99_us: float
    total_p50_us: float
    cpu_s: float
    complaint: str = ""
    """The first failed answer's head."""

    @property
    def cpu_ms_a_request(self) -> float:
        return self.cpu_s * 1000 / max(1, self.completed)

    @property
    def cpu_s_a_million_tokens(self) -> float:
        return self.cpu_s * 1e6 / max(1, self.tokens)


def build() -> None:
    """Compile what is older than its source. Raises RuntimeError where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise RuntimeError("the instruments are written in C: install a compiler (Debian: apt-get install gcc)")
    CACHE.mkdir(parents=True, exist_ok=True)
    for program in (STAND_IN, LOAD_GENERATOR):
        source = SOURCES / f"{program.name}.c"
        if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
            subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-o", str(program), str(source)], check=True)


def stand_in() -> Server:
    """One engine that speaks TCP, started."""
    port = free_port()
    server = Server("stand-in", port, [str(STAND_IN), "--port", str(port), "--served-model-name", MODEL])
    server.start(CACHE / "logs")
    server.wait_answering("/health")
    return server


def run_load(
    port: int, load: Load, seconds: float, warm_up_s: float, seed: int, cpu_s: Callable[[], float]
) -> Measured:
    """Drive one target; `cpu_s` is read at both ends of the measured time. Raises RuntimeError on the generator's
    failure."""
    body = CACHE / "body.json"
    body.write_text(load.body())
    words = [str(LOAD_GENERATOR), *map(str, (port, load.connections, seconds, warm_up_s, body, CHAT, seed))]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as generator:
        assert generator.stdout is not None
        assert generator.stderr is not None
        deadline = time.monotonic() + seconds + warm_up_s + 30
        generator.stdout.readline()
        before_s = cpu_s()
        line = generator.stdout.readline()
        used_s = cpu_s() - before_s
        complaint = generator.stderr.read().strip()
        generator.wait(max(1.0, deadline - time.monotonic()))
    if generator.returncode or not line:
        raise RuntimeError(f"the load generator failed with exit code {generator.returncode}: {complaint}")
    found = json.loads(line)
    return Measured(
        found["seconds"],
        found["completed"],
        found["tokens"],
        found["failed"],
        found["first_p50_us"],
        found["first_p99_us"],
        found["total_p50_us"],
        used_s,
        complaint,
    )

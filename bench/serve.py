"""`vllm bench serve` against the endpoint and against vLLM itself, interleaved in one run.

Two identical engines run side by side, one answering on TCP directly, one behind a covey agent; only one is asked at a
time. Prints a table, then one line `ratio NAME VALUE` a figure: throughput (covey over direct; 1 is no loss) and the
added median time to first token.

    python -m bench.serve --help
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from covey_node.core import vllm_command
from covey_node.core.settings import ModelSpec
from covey_node.core.vllm_command import Host
from covey_node.io.model_card import read_card

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "app/covey/demo_models/covey-demo-chat"
NAME = "covey-demo-chat"
BIN = Path(sys.executable).parent
START_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Result:
    """One run of `vllm bench serve`."""

    output_tokens_per_s: float
    median_ttft_ms: float
    median_tpot_ms: float
    completed: int
    failed: int


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until `url` answers 200; says what the process printed when it dies instead."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            sys.exit(f"{process.args} ended early:\n{log.read_text()[-3000:]}")
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.5)
    sys.exit(f"{url} was not ready within {START_TIMEOUT_S:.0f} s:\n{log.read_text()[-3000:]}")


@contextmanager
def running(command: list[str], url: str, log: Path, environment: dict[str, str]) -> Iterator[None]:
    """A server for the length of the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=os.environ | environment)
    try:
        print(f"starting {' '.join(command[:4])} ...", flush=True)
        wait_ready(url, process, log)
        yield
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def direct_engine(port: int, log: Path) -> tuple[list[str], str, Path, dict[str, str]]:
    """vLLM on TCP, with the very flags and environment that covey gives its engine."""
    device = "cuda" if Path("/dev/nvidia0").exists() else "cpu"
    host = Host(device, max(1, (os.cpu_count() or 1) // 2), 0)
    card = read_card(str(MODEL))
    spec = ModelSpec(name=NAME, path=str(MODEL), kv_cache_bytes=64 * 1024**2)
    words = vllm_command.arguments(spec, card.extra_args, "", host)
    at = words.index("--uds")
    words[at : at + 2] = ["--host", "127.0.0.1", "--port", str(port)]
    environment = vllm_command.environment({}, host, os.getpid(), "bench")
    return (
        [sys.executable, "-m", "vllm.entrypoints.cli.main", *words],
        f"http://127.0.0.1:{port}/health",
        log,
        environment,
    )


def agent(port: int, state: Path, log: Path) -> tuple[list[str], str, Path, dict[str, str]]:
    """A covey agent with one vLLM of its own."""
    command = [
        str(BIN / "covey"), "--state-dir", str(state), "up", "--model", str(MODEL), "--http", f"127.0.0.1:{port}",
        "--grpc", "127.0.0.1:0", "--link", "127.0.0.1:0", "--no-mdns", "--kv-cache-bytes", "64M",
    ]  # fmt: skip
    return command, f"http://127.0.0.1:{port}/ready", log, {}


def measure(url: str, prompts: int, concurrency: int, seed: int, folder: Path) -> Result:
    """One `vllm bench serve` with the random data set."""
    file = folder / f"{seed}.json"
    command = [
        str(BIN / "vllm"), "bench", "serve", "--backend", "openai", "--base-url", url, "--model", NAME,
        "--tokenizer", str(MODEL), "--dataset-name", "random", "--random-input-len", "64", "--random-output-len", "64",
        "--num-prompts", str(prompts), "--max-concurrency", str(concurrency), "--seed", str(seed), "--ignore-eos",
        "--save-result", "--result-dir", str(folder), "--result-filename", file.name, "--disable-tqdm",
    ]  # fmt: skip
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        sys.exit(f"vllm bench serve failed:\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}")
    found = json.loads(file.read_text())
    return Result(
        found["output_throughput"], found["median_ttft_ms"], found["median_tpot_ms"], found["completed"],
        prompts - found["completed"],
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default 3)")
    parser.add_argument("--prompts", type=int, default=100, help="requests a round (default 100)")
    parser.add_argument("--concurrency", type=int, default=8, help="requests at once (default 8)")
    arguments = parser.parse_args()
    direct: list[Result] = []
    covey: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="covey-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        ports = free_port(), free_port()
        stack.enter_context(running(*direct_engine(ports[0], folder / "vllm.log")))
        stack.enter_context(running(*agent(ports[1], folder / "state", folder / "covey.log")))
        for number in range(arguments.rounds + 1):
            print("warming up" if number == 0 else f"round {number} of {arguments.rounds}", flush=True)
            turn = ((direct, ports[0]), (covey, ports[1]))
            for results, port in turn if number % 2 else reversed(turn):
                results.append(
                    measure(f"http://127.0.0.1:{port}", arguments.prompts, arguments.concurrency, number, folder)
                )
    report(direct[1:], covey[1:])


def report(direct: list[Result], covey: list[Result]) -> None:
    """The table and the ratios."""
    print(f"\n{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{'':12}{'tokens/s':>10}{'TTFT p50 ms':>13}{'TPOT p50 ms':>13}{'completed':>11}{'failed':>8}")
    for label, results in (("vLLM direct", direct), ("covey", covey)):
        print(
            f"{label:12}{_median(results, 'output_tokens_per_s'):10.0f}{_median(results, 'median_ttft_ms'):13.2f}"
            f"{_median(results, 'median_tpot_ms'):13.2f}{sum(r.completed for r in results):11}"
            f"{sum(r.failed for r in results):8}"
        )
    throughput = _median(covey, "output_tokens_per_s") / _median(direct, "output_tokens_per_s")
    added_ms = _median(covey, "median_ttft_ms") - _median(direct, "median_ttft_ms")
    print(f"ratio serve_throughput {throughput:.3f}")
    print(f"ratio serve_added_ttft_ms {added_ms:.2f}")


def _median(results: list[Result], field: str) -> float:
    return statistics.median(getattr(r, field) for r in results)


if __name__ == "__main__":
    main()

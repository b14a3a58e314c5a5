"""CPU cost of a link on loopback, over gRPC alone and with a data channel: per request, and per 1,000 chunks of an
answer. Both ends together, mutual TLS.

Run: .venv/bin/python bench/link_cost.py [--requests 2000] [--streams 64] [--chunks 100] [--rounds 3]
Prints the machine, medians over the rounds, and ratios. "one at a time" is the latency-bound case, "every 10 ms" the
case of many slow streams (10 ms between tokens), where coalescing decides.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import grpc
import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.links import Answer, Machine, connect, new_member, new_pool, request

from covey_mesh.core.exchange import ForwardedRequest, ResponseSink
from covey_mesh.core.ports import Link

CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":" token"}}]}\n\n'
TOKEN_INTERVAL_S = 0.010


class TokenSource:
    """One chunk every interval, as an engine does; interval 0: all at once."""

    def __init__(self, sink: ResponseSink, chunks: int, interval_s: float) -> None:
        self._sink = sink
        self._left = chunks
        self._interval_s = interval_s
        asyncio.get_running_loop().call_soon(self._begin)

    def cancel(self) -> None:
        self._left = 0

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def _begin(self) -> None:
        self._sink.head(200, "text/event-stream")
        self._step()

    def _step(self) -> None:
        while self._left:
            self._left -= 1
            self._sink.data(CHUNK)
            if self._interval_s:
                asyncio.get_running_loop().call_later(self._interval_s, self._step)
                return
        self._sink.end(None)


class Bench:
    """Two machines in this process, so that the process's CPU time is that of both ends."""

    def __init__(self, near: Machine, far: Machine) -> None:
        self.near = near
        self.far = far

    def serve(self, chunks: int, interval_s: float) -> None:
        def open_request(_: ForwardedRequest, sink: ResponseSink) -> TokenSource:
            return TokenSource(sink, chunks, interval_s)

        self.far.transport.serve_requests(open_request)

    async def run(self, link: Link, requests: int, streams: int) -> tuple[float, float, int]:
        """CPU seconds, wall seconds, batches that arrived."""
        turns = asyncio.Semaphore(streams)

        async def one(number: int) -> None:
            async with turns:
                answer = Answer()
                link.open(request(b"x" * 2000, number), answer)
                await answer.wait()
                assert answer.failure is None

        heard = self.near.events.heard_count
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        await asyncio.gather(*(one(number) for number in range(requests)))
        return time.process_time() - cpu_s, time.perf_counter() - wall_s, self.near.events.heard_count - heard


class Carried:
    """Medians of one way to carry batches: gRPC alone, or a data channel beside it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.figures: dict[str, float] = {}

    def take(self, name: str, value: float, text: str) -> None:
        self.figures[name] = value
        print(f"{self.name:<13} {text}", flush=True)


async def measure(arguments: argparse.Namespace, directory: Path) -> None:
    keeper = new_pool(directory / "keeper")
    member = new_member(directory / "member", keeper)
    over_grpc, channel = Carried("gRPC"), Carried("data channel")
    for carried, data_port in ((over_grpc, None), (channel, 0)):
        near, far = Machine(keeper, data_port=data_port), Machine(member, data_port=data_port)
        await near.start()
        await far.start()
        try:
            link, _ = await connect(near, far)
            bench = Bench(near, far)
            await per_request(bench, link, arguments, carried)
            await per_chunk(bench, link, arguments, carried)
        finally:
            await near.transport.close()
            await far.transport.close()
    for name, value in channel.figures.items():
        print(f"ratio {name}_to_grpc {value / over_grpc.figures[name]:.3f}")


async def per_request(bench: Bench, link: Link, arguments: argparse.Namespace, carried: Carried) -> None:
    bench.serve(1, 0)
    for name, streams, requests in (
        ("one at a time", 1, max(1, arguments.requests // 4)),
        (f"{arguments.streams} at a time", arguments.streams, arguments.requests),
    ):
        rounds = [await bench.run(link, requests, streams) for _ in range(arguments.rounds)]
        cpu_ms = statistics.median(cpu_s * 1000 / requests for cpu_s, _, _ in rounds)
        wall_ms = statistics.median(wall_s * 1000 * streams / requests for _, wall_s, _ in rounds)
        text = f"request, {name:<14} {cpu_ms:7.3f} ms CPU a request   {wall_ms:7.3f} ms each"
        carried.take(f"cpu_a_request_{name.replace(' ', '_')}", cpu_ms, text)


async def per_chunk(bench: Bench, link: Link, arguments: argparse.Namespace, carried: Carried) -> None:
    for name, interval_s in (("all at once", 0.0), ("every 10 ms", TOKEN_INTERVAL_S)):
        bench.serve(arguments.chunks, interval_s)
        total = arguments.streams * arguments.chunks
        rounds = [await bench.run(link, arguments.streams, arguments.streams) for _ in range(arguments.rounds)]
        cpu_ms = statistics.median(cpu_s * 1000 / total * 1000 for cpu_s, _, _ in rounds)
        a_batch = statistics.median(total / max(1, batches) for _, _, batches in rounds)
        text = f"chunks {name}      {cpu_ms:7.1f} ms CPU per 1,000 chunks   {a_batch:5.1f} chunks a batch"
        carried.take(f"cpu_a_chunk_{name.replace(' ', '_')}", cpu_ms, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--chunks", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{platform.platform()}, {_cpu_name()}, Python {platform.python_version()}, grpcio {grpc.__version__}")
    with tempfile.TemporaryDirectory() as directory:
        uvloop.run(measure(arguments, Path(directory)))


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown CPU")


if __name__ == "__main__":
    main()

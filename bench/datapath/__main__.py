"""covey's data path beside direct access, nginx, vllm-router, sglang-router, smg and litellm, in one run.

    make bench-datapath                                        (about 12 minutes)
    make bench-datapath BENCH_ARGUMENTS="--rounds 1 --only covey,vllm-router,nginx"

All targets run side by side in front of the same stand-in engines and are asked in turns; one at a time is under load.
CPU is that of all processes of the target (covey: all agents of the pool, the leader among them), the engines' not
counted. Prints a table, then one line `ratio NAME VALUE` a figure.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack

from bench.datapath import instruments, measuring, report
from bench.datapath.measuring import Results, Target
from bench.datapath.peers import PEERS, NotInstalledError
from bench.datapath.pools import MORE_SHAPES, SHAPES, Pool
from bench.datapath.processes import CACHE, Server

ENGINES = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default 3)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of the shortest load, each time (default 3)")
    parser.add_argument("--only", default="", help="names that a target must contain one of, separated by commas")
    parser.add_argument("--loads", default=",".join(measuring.LOADS), help="some of: %(default)s")
    arguments = parser.parse_args()
    loads = [word for word in arguments.loads.split(",") if word]
    if not set(loads) <= set(measuring.LOADS):
        parser.error(f"--loads: some of {','.join(measuring.LOADS)}")
    machine = report.machine()
    instruments.build()
    wanted = [word for word in arguments.only.split(",") if word]
    with ExitStack() as stack:
        targets, missing = _start(stack, wanted)
        results = measuring.measure(targets, loads, arguments.rounds, arguments.seconds, _say)
        print(f"\n{machine}; {arguments.rounds} rounds\n")
        print("\n".join([*report.table([*results, *missing]), "", *report.ratios(results)]), flush=True)


def _say(text: str) -> None:
    print(f"\r{text:90}", end="", file=sys.stderr, flush=True)


def _start(stack: ExitStack, wanted: Sequence[str]) -> tuple[list[Target], list[Results]]:
    """What runs, and what could not be started with the reason."""
    engines = [stack.enter_context(_ending(instruments.stand_in())) for _ in range(ENGINES)]
    ports = [engine.port for engine in engines]
    targets: list[Target] = [engines[0]]
    engines[0].name = "direct"
    missing: list[Results] = []
    for peer in PEERS:
        if not _is_wanted(peer.name, wanted):
            continue
        try:
            server = peer.make(ports)
            _say(f"starting {peer.name}")
            stack.callback(server.stop)
            server.start(CACHE / "logs")
            server.wait_answering(peer.ready)
            targets.append(server)
        except (NotInstalledError, RuntimeError) as error:
            missing.append(Results(peer.name, why_not=str(error)))
    for shape in (*SHAPES, *MORE_SHAPES):
        if not _is_wanted(shape.name, wanted):
            continue
        pool = Pool(shape)
        stack.callback(pool.stop)
        try:
            _say(f"starting {shape.name}")
            pool.start(CACHE / "logs")
            targets.append(pool)
        except RuntimeError as error:
            missing.append(Results(shape.name, why_not=str(error)))
    return targets, missing


def _is_wanted(name: str, wanted: Sequence[str]) -> bool:
    return not wanted or any(word in name for word in wanted)


class _ending:
    """A server that is stopped at the end of the block."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def __enter__(self) -> Server:
        return self._server

    def __exit__(self, *_: object) -> None:
        self._server.stop()


if __name__ == "__main__":
    main()

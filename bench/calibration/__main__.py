"""The engine model of the routing bench against engines that exist.

    make bench-calibration TRACE=FILE [LOAD=.5] [SEEDS=5] [BENCH_ARGUMENTS="--only dynamo"]

Fits the model to each engine with single prompts and batches, then gives both the same requests and prints the error.
"""

from __future__ import annotations

import argparse
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bench.calibration import mocker

VLLM_REQUESTS = 150


def main(arguments: Sequence[str] | None = None) -> None:
    environ = os.environ
    parser = argparse.ArgumentParser(prog="bench.calibration", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--trace", type=Path, default=environ.get("TRACE"), help="Mooncake .jsonl")
    parser.add_argument("--load", type=float, default=float(environ.get("LOAD", ".5")))
    parser.add_argument("--seeds", type=int, default=int(environ.get("SEEDS", "5")), help="samples of the trace")
    parser.add_argument("--requests", type=int, default=int(environ.get("REQUESTS", "400")), help="in each sample")
    parser.add_argument("--only", choices=("dynamo", "vllm"))
    chosen = parser.parse_args(arguments)
    if chosen.trace is None:
        parser.error("which trace? TRACE=FILE or --trace FILE")
    lines: list[str] = []
    if chosen.only != "vllm":
        try:
            lines += mocker.calibrate(chosen.trace, chosen.load, chosen.requests, chosen.seeds)
        except subprocess.CalledProcessError as error:
            print(f"left out: {mocker.PACKAGE} does not install or run here\n{error.stderr or error}")
    if chosen.only != "dynamo":
        # Imported here: it needs vLLM.
        from bench.calibration import real_vllm

        lines += real_vllm.calibrate(chosen.trace, chosen.load, min(chosen.requests, VLLM_REQUESTS))
    print()
    print("\n".join(lines))


if __name__ == "__main__":
    main()

"""How much faster a pool of unequal machines does a batch than its fastest machine alone.

Real agents as processes on loopback with simulated engines whose speeds are set, as in bench.sharding: upload, disk,
window, leader, links and every byte are real, only the model's work is a timer. Every line's answer is checked. The
most that could be is the sum of the speeds over the fastest.

    make bench-batches BENCH_ARGUMENTS="--lines 1500 --speeds 1,1,.5,.5 --runs 1"
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

from bench.sharding import MODEL, Pool

WORDS_A_LINE = 200
TOKENS_A_LINE = WORDS_A_LINE + 2
"""As the simulated engine counts."""

POLL_S = 0.1
ENDS_WITHIN_S = 600.0


def input_file(path: Path, count: int, salt: str) -> None:
    with path.open("w") as file:
        for number in range(count):
            text = " ".join(f"w{salt}{number}x{word}" for word in range(WORDS_A_LINE))
            body = {"model": MODEL, "input": text}
            line = {"custom_id": str(number), "method": "POST", "url": "/v1/embeddings", "body": body}
            file.write(json.dumps(line) + "\n")


def run(pool: Pool, folder: Path, count: int, salt: str) -> float:
    """Seconds from the batch's creation to its end."""
    client, path = pool.entry.client, folder / "lines.jsonl"
    input_file(path, count, salt)
    file = client.send_file("/v1/files", {"purpose": "batch"}, path, lambda _: None)
    wish = {"input_file_id": file["id"], "endpoint": "/v1/embeddings", "completion_window": "1h"}
    began_s = time.monotonic()
    batch = client.post("/v1/batches", wish)
    while batch["status"] in ("validating", "in_progress", "finalizing"):
        if time.monotonic() - began_s > ENDS_WITHIN_S:
            raise SystemExit(f"the batch has not ended: {batch}")
        time.sleep(POLL_S)
        batch = client.get(f"/v1/batches/{batch['id']}")
    took_s = time.monotonic() - began_s
    output = folder / "output.jsonl"
    client.save(f"/v1/files/{batch['output_file_id']}/content", output)
    answered = [json.loads(line)["custom_id"] for line in output.read_text().splitlines()]
    if answered != [str(number) for number in range(count)]:
        raise SystemExit(f"lines are missing or twice: {batch['request_counts']}")
    return took_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=1500)
    parser.add_argument("--speeds", default="1,1,.5,.5", help="of the machines, fastest first")
    parser.add_argument("--alone-s", type=float, default=40.0, help="seconds that the fastest needs alone")
    parser.add_argument("--runs", type=int, default=1)
    args = parser.parse_args()
    speeds = [float(word) for word in args.speeds.split(",")]
    print(f"{args.lines} lines of {TOKENS_A_LINE} tokens, speeds {args.speeds}, {args.runs} runs; "
          f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}")  # fmt: skip
    pool = Pool(speeds, args.lines * TOKENS_A_LINE / args.alone_s / speeds[0])
    try:
        with tempfile.TemporaryDirectory(prefix="covey-bench-") as folder:
            pool.start_first()
            alone_s = [run(pool, Path(folder), args.lines, f"a{n}") for n in range(args.runs)]
            pool.start_others()
            together_s = [run(pool, Path(folder), args.lines, f"t{n}") for n in range(args.runs)]
    finally:
        pool.close()
    alone, together = statistics.median(alone_s), statistics.median(together_s)
    print(f"alone {alone:.1f} s, together {together:.1f} s, at most {sum(speeds) / speeds[0]:.2f} times as fast")
    print(f"ratio batch-speedup {alone / together:.2f}")


if __name__ == "__main__":
    main()

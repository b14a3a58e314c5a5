"""Runs in the environment of `ai-dynamo-runtime`, not in covey's: replays traces through Dynamo's mocker, offline.

    python dynamo_replay.py < JOBS.json > RESULTS.json

A job: {"rows": [Mooncake's fields], "workers": N, "router": "round_robin" | "kv_router", "engine": {...}}. A result:
for each row, in order of arrival, {"first_token_s", "completion_s", "cached_tokens", "prompt_tokens"}.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

BLOCK_TOKENS = 512
"""Tokens of one hash in Mooncake's traces."""


def replay(job: dict[str, Any], folder: Path) -> list[dict[str, float]]:
    from dynamo import _core

    trace = folder / "trace.jsonl"
    trace.write_text("".join(json.dumps(row) + "\n" for row in job["rows"]))
    found = _core.run_mocker_trace_replay(
        [str(trace)],
        extra_engine_args={"engine": job["engine"]},
        num_workers=job["workers"],
        router_mode=job["router"],
        trace_block_size=BLOCK_TOKENS,
        capture_per_request=True,
        capture_planner_details=False,
    )
    return [
        {
            "first_token_s": each["ttft_ms"] / 1000,
            "completion_s": each["e2e_latency_ms"] / 1000,
            "cached_tokens": each["reused_input_tokens"],
            "prompt_tokens": each["input_length"],
        }
        for each in sorted(found.per_request, key=lambda each: each["arrival_time_ms"])
    ]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        results = [replay(job, Path(folder)) for job in json.load(sys.stdin)]
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()

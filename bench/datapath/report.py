"""The table, and one line `ratio NAME VALUE` a figure."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

from bench.datapath.measuring import Results
from bench.datapath.pools import BOTH, BOTH_COMPILED, COMPILED, OVER_GRPC, SHAPES

COLUMNS = (
    ("CPU ms", "a request"),
    ("requests", "/s"),
    ("TTFT us", "1 client"),
    ("CPU s", "a M tokens"),
    ("TTFT ms", "64 streams"),
    ("tokens", "/s"),
)


def table(results: Sequence[Results]) -> list[str]:
    """One row a target."""
    lines = [" " * 30 + "".join(f"{first:>12}" for first, _ in COLUMNS)]
    lines.append(" " * 30 + "".join(f"{second:>12}" for _, second in COLUMNS))
    lines += [f"{each.name:30}" + _row(each) for each in results]
    return lines


def _row(each: Results) -> str:
    if each.why_not:
        return f"not measured: {each.why_not}"
    direct = each.name == "direct"
    cells = (
        None if direct else _cell(each.median("requests", lambda run: run.cpu_ms_a_request), "12.3f"),
        _cell(each.median("requests", lambda run: run.completed / run.seconds), "12.0f"),
        _cell(each.median("first token", lambda run: run.first_p50_us), "12.0f"),
        None if direct else _cell(each.median("streams", lambda run: run.cpu_s_a_million_tokens), "12.1f"),
        _cell(each.median("streams", lambda run: run.first_p50_us / 1000), "12.1f"),
        _cell(each.median("streams", lambda run: run.tokens / run.seconds), "12.0f"),
    )
    return "".join(cell or f"{'-':>12}" for cell in cells)


def _cell(value: float | None, form: str) -> str:
    return f"{'-':>12}" if value is None else format(value, form)


def ratios(results: Sequence[Results]) -> list[str]:
    """Smaller is better for all. A figure whose target was not measured is said to be missing."""
    by_name = {each.name: each for each in results}
    here, here_led, remote, remote_led = (by_name.get(shape.name) for shape in SHAPES)
    over_grpc, compiled = by_name.get(OVER_GRPC.name), by_name.get(COMPILED.name)
    both, both_compiled = by_name.get(BOTH.name), by_name.get(BOTH_COMPILED.name)
    vllm, sglang = by_name.get("vllm-router round_robin"), by_name.get("sglang-router cache_aware")
    lines = [
        _ratio("cpu_a_request_to_vllm_router", _request(here), _request(vllm)),
        _ratio("cpu_a_request_compiled_to_vllm_router", _request(compiled), _request(vllm)),
        _ratio("cpu_a_request_both_serve_to_vllm_router", _request(both), _request(vllm)),
        _ratio("cpu_a_request_both_serve_compiled_to_vllm_router", _request(both_compiled), _request(vllm)),
        _ratio("cpu_a_request_to_sglang_router_cache_aware", _request(here), _request(sglang)),
        _ratio("cpu_a_request_compiled_to_sglang_router_cache_aware", _request(compiled), _request(sglang)),
        _ratio("cpu_a_request_to_litellm", _request(here), _request(by_name.get("litellm"))),
        _ratio("cpu_a_request_compiled_to_litellm", _request(compiled), _request(by_name.get("litellm"))),
        _ratio("cpu_a_million_tokens_to_vllm_router", _tokens(here), _tokens(vllm)),
        _ratio("cpu_a_million_tokens_compiled_to_vllm_router", _tokens(compiled), _tokens(vllm)),
        _ratio("cpu_a_million_tokens_remote_to_vllm_router", _tokens(remote), _tokens(vllm)),
        _ratio("cpu_a_million_tokens_remote_leader_remote_to_vllm_router", _tokens(remote_led), _tokens(vllm)),
        _ratio("cpu_a_million_tokens_remote_over_grpc_to_vllm_router", _tokens(over_grpc), _tokens(vllm)),
    ]
    direct = _first_ms(by_name.get("direct"))
    for name, each in (
        ("here", here),
        ("here_compiled", compiled),
        ("here_leader_remote", here_led),
        ("remote", remote),
        ("remote_leader_remote", remote_led),
        ("remote_over_grpc", over_grpc),
    ):
        first = _first_ms(each)
        added = None if first is None or direct is None else first - direct
        lines.append(_line(f"added_ttft_ms_{name}", added))
    return lines


def _request(each: Results | None) -> float | None:
    return None if each is None else each.median("requests", lambda run: run.cpu_ms_a_request)


def _tokens(each: Results | None) -> float | None:
    return None if each is None else each.median("streams", lambda run: run.cpu_s_a_million_tokens)


def _first_ms(each: Results | None) -> float | None:
    return None if each is None else each.median("first token", lambda run: run.first_p50_us / 1000)


def _ratio(name: str, ours: float | None, theirs: float | None) -> str:
    return _line(name, ours / theirs if ours is not None and theirs else None)


def _line(name: str, value: float | None) -> str:
    return f"ratio {name} {'not measured' if value is None else f'{value:.3f}'}"


def machine() -> str:
    """What it ran on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown CPU")
    load = os.getloadavg()[0]
    return f"{cpu}, {os.cpu_count()} cores, Python {platform.python_version()}, load average before {load:.1f}"

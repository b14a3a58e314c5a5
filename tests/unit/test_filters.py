"""Each filter's table, their order, and what counts as busy."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.scheduling import ask, candidate, model_load, node

from covey_mesh.core.facts import EngineState
from covey_scheduler.core import filters
from covey_scheduler.core.prediction import Question
from covey_scheduler.core.settings import SchedulerSettings
from covey_scheduler.core.standing import standing_of

LONG = {"prompt_tokens": 5000}


@pytest.mark.parametrize(
    ("check", "request_fields", "machine", "expected"),
    [
        ("model_offered", {}, candidate(None), "does not offer the model"),
        ("model_offered", {}, candidate(model_load()), ""),
        ("context_fits", {"prompt_tokens": 4096}, candidate(model_load(), largest_context_tokens=8192), ""),
        ("context_fits", LONG, candidate(model_load(), largest_context_tokens=8192), "prompt of about 5000 tokens"),
        ("context_fits", LONG, candidate(model_load()), ""),
        ("context_fits", {"prompt_tokens": 8193}, candidate(model_load()), "longer than its context of 4096"),
        ("context_fits", LONG, candidate(model_load(max_context_tokens=0)), ""),
        ("kv_cache_can_hold", {"prompt_tokens": 200}, candidate(model_load(kv_cache_tokens_total=100)), ""),
        (
            "kv_cache_can_hold",
            {"prompt_tokens": 201},
            candidate(model_load(kv_cache_tokens_total=100)),
            "can never fit",
        ),
        ("kv_cache_can_hold", LONG, candidate(model_load(kv_cache_tokens_total=0)), ""),
        ("not_excluded", {"excluded": {node(1): "link lost"}}, candidate(model_load()), "gateway: link lost"),
        ("not_excluded", {"excluded": {node(1): ""}}, candidate(model_load()), "no reason given"),
        ("not_excluded", {"excluded": {node(2): "link lost"}}, candidate(model_load()), ""),
        ("not_draining", {}, candidate(model_load(), draining=True), "draining"),
        ("not_draining", {}, candidate(model_load()), ""),
        ("reachable", {}, candidate(model_load(), reachable=False), "cannot be reached"),
        ("reachable", {}, candidate(model_load()), ""),
    ],
)
def test_filter(check: str, request_fields: dict[str, Any], machine: Any, expected: str) -> None:
    reason = getattr(filters, check)(ask(**request_fields), machine)
    assert reason == expected if not expected else expected in reason


@pytest.mark.parametrize(
    ("state", "running", "ready"),
    [
        (EngineState.READY, True, True),
        (EngineState.STARTING, True, False),
        (EngineState.BACKING_OFF, True, False),
        (EngineState.WEDGED, True, False),
        (EngineState.STOPPED, False, False),
        (EngineState.STOPPING, False, False),
        (EngineState.FAILED, False, False),
    ],
)
def test_engine_states(state: EngineState, running: bool, ready: bool) -> None:
    machine = candidate(model_load(state=state, detail="loading\nweights"))
    assert (filters.engine_running(ask(), machine) == "") is running
    assert (filters.engine_ready(ask(), machine) == "") is ready
    if not ready:
        rejection = filters.rejection_of(ask(), machine)
        assert rejection is not None
        assert rejection.reason == f"engine is {state.value}: loading weights"
        assert rejection.failed.recovers is running


def test_what_never_passes_is_named_before_what_may() -> None:
    machine = candidate(model_load(state=EngineState.STARTING), reachable=False, draining=True)
    names = []
    for request in (
        ask(prompt_tokens=100_000, excluded={node(1): "refused"}),
        ask(excluded={node(1): "refused"}),
    ):
        rejection = filters.rejection_of(request, machine)
        assert rejection is not None
        names.append(rejection.failed.name)
    assert names == ["context_fits", "not_draining"]


@pytest.mark.parametrize(
    ("machines", "expected"),
    [
        ((candidate(None),), 0),
        ((candidate(None), candidate(model_load(), draining=True)), 2000),
        ((candidate(model_load(), reachable=False), candidate(model_load(), draining=True)), 1000),
        ((), 0),
    ],
)
def test_retry_after(machines: tuple[Any, ...], expected: int) -> None:
    rejections = tuple(r for m in machines if (r := filters.rejection_of(ask(), m)) is not None)
    assert len(rejections) == len(machines)
    assert filters.retry_after_ms(rejections) == expected


@pytest.mark.parametrize(
    ("load", "own", "expected"),
    [
        ({"running_requests": 3}, {}, ""),
        ({"running_requests": 4}, {}, "busy: 4 of 4 running"),
        ({"running_requests": 3}, {"reserved_requests": 1}, "busy: 4 of 4 running"),
        ({"running_requests": 4}, {"reserved_requests": -1}, ""),
        ({"running_requests": 40, "running_limit": 0}, {}, ""),
        ({}, {"prompts_done_at_s": 10.25}, ""),
        ({}, {"prompts_done_at_s": 10.5}, "busy: 0.50 s of prompts before it"),
        ({"prefill_tokens_per_s": 0.0}, {"prompts_done_at_s": 10.5}, ""),  # by a guess
        ({"running_requests": 1, "waiting_requests": 2}, {}, "busy: 2 waiting"),
        ({"running_requests": 1, "kv_cache_tokens_free": 199}, {}, "199 KV-cache tokens free, 200 needed"),
        ({"running_requests": 1, "kv_cache_tokens_free": 200}, {}, ""),
        ({"running_requests": 1, "kv_cache_tokens_free": 250}, {"reserved_tokens": 60}, "190 KV-cache tokens free"),
        ({"running_requests": 1, "kv_cache_tokens_free": 150, "kv_cache_tokens_total": 150}, {}, ""),
        ({"kv_cache_tokens_free": 0}, {}, ""),
    ],
)
def test_busy(load: dict[str, Any], own: dict[str, Any], expected: str) -> None:
    machine = standing_of(candidate(model_load(**load), **own), SchedulerSettings())
    reason = filters.busy(Question(ask(), 100, 10.0), machine, SchedulerSettings(start_ahead_s=0.25))
    assert reason == expected if not expected else expected in reason

"""Parts of the chaos lab that need no lab: who gets which role, near ties of a real model, lag, and what is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.lan.chaos import lags
from tests.lan.chaos.document import write_part
from tests.lan.chaos.faults import EVERYBODY, F1, F2, F4, LEADER, SERVER, all_but
from tests.lan.chaos.kinds import KINDS, MIXES, far_model, models
from tests.lan.chaos.near_ties import UNDECIDED_NATS, behind, common
from tests.lan.chaos.observation import Ended, Observation
from tests.lan.chaos.scenarios import SCENARIOS, VLLM_SCENARIOS
from tests.lan.chaos.stage import Strike, nothing_moved
from tests.lan.chaos.variants import SIMULATED, VLLM, simulated_roles, vllm_roles

NAMES = [f"h{number}" for number in range(1, SIMULATED.hosts + 1)]


@pytest.mark.parametrize(
    ("leads", "names"), [(leads, names) for names in (NAMES, NAMES[:4]) for leads in names], ids=str
)
def test_every_model_is_left_without_the_machines_that_scenarios_kill_together(leads: str, names: list[str]) -> None:
    roles = simulated_roles(leads, names)
    assert roles[LEADER] == leads
    assert sorted(roles.values()) == names
    for gone in ((LEADER, F1), (F1, F2)):
        left = {model for role, name in roles.items() if role not in gone for model in models(name)}
        assert {far_model(name) for name in names} <= left
    assert (F4 in roles) == (len(names) == 5)


def test_the_vllm_server_struck_is_not_the_leader_and_another_one_is_left() -> None:
    for leads in ("h1", "h2", "h3"):
        roles = vllm_roles(leads, ["h1", "h2", "h3", "h4"])
        assert roles[SERVER] in ("h1", "h2")
        assert roles[SERVER] != leads


def test_both_protocols_stream_and_not_are_in_every_scenarios_load() -> None:
    for scenario in (*SCENARIOS.values(), *VLLM_SCENARIOS.values()):
        kinds = [KINDS[name] for name in MIXES[scenario.mix]]
        assert {kind.grpc for kind in kinds} == {True, False}, scenario.name
        served = VLLM.kinds if scenario.mix == "vllm" else SIMULATED.kinds
        assert set(MIXES[scenario.mix]) <= set(served)
    assert {(kind.path, kind.stream) for kind in KINDS.values() if kind.grpc} == {
        (path, stream) for path in ("/v1/chat/completions", "/v1/completions") for stream in (True, False)
    }


def test_all_but() -> None:
    assert set(all_but(F1)) | {F1} == set(EVERYBODY)


def token(word: str, logprob: float, rival: float | None = None) -> dict[str, dict[str, Any]]:
    told = {"1": {"logprob": logprob, "decoded_token": word}}
    return told if rival is None else {**told, "2": {"logprob": rival, "decoded_token": "rival"}}


def test_a_token_that_the_model_would_not_write_is_named_and_a_near_tie_is_not() -> None:
    near = UNDECIDED_NATS / 2
    told = [token("one", -0.1), token(" two", -1.0, -1.0 + near), token(" three", -5.0, -0.1)]
    assert behind([1, 1], told[:2], 0) == ""
    assert behind([1, 1, 1], told, 0).startswith("' three'")
    assert behind([1, 1, 1], told, len("one two three")) == "", "before it parts from a known text, all is known"
    assert common("one two", "one three") == len("one t")
    assert common("one", "one two") == 3


def exposed(*counts: int) -> str:
    bounds = ("0.005", "0.5", "+Inf")
    lines = [
        f'covey_event_loop_lag_seconds_bucket{{le="{bound}"}} {count}.0'
        for bound, count in zip(bounds, counts, strict=True)
    ]
    return "\n".join(["# TYPE covey_event_loop_lag_seconds histogram", *lines, "covey_other 1.0"])


def test_the_worst_lag_between_two_readings() -> None:
    before, quiet = lags.read(exposed(10, 12, 12)), lags.read(exposed(20, 22, 22))
    assert lags.worst_s(before, quiet) == 0.005
    assert lags.worst_s(before, lags.read(exposed(20, 23, 23))) == 0.5
    assert lags.worst_s(before, lags.read(exposed(20, 22, 23))) == float("inf")
    assert lags.worst_s(before, before) is None
    assert lags.worst_s({}, {}) is None


def test_a_fault_that_moved_nothing_is_told_with_what_was_seen() -> None:
    seen = [
        Observation("chat-stream", "h1", "m", 0, 90.0, Ended.FINISHED, 95.0, machine="h2"),
        Observation("chat-stream", "h1", "m", 0, 98.0, Ended.FINISHED, 116.5, machine="h2"),
        Observation("chat-stream", "h1", "m", 0, 99.0, Ended.FINISHED, 117.0, machine="h3"),
    ]
    text = nothing_moved(seen, Strike(100.0, ("h2", "h4")))
    assert "h2 and h4: of 2 answers" in text
    assert "1 were under way then (1 finished; the slowest took 18.5 s)" in text


def test_a_part_of_the_page_is_renewed_without_the_others(tmp_path: Path) -> None:
    page = tmp_path / "failover.md"
    write_part(page, "chaos", "old\n")
    write_part(page, "figures", "1 s\n")
    write_part(page, "chaos", "new\n")
    text = page.read_text()
    assert text.startswith("# Failover")
    assert "<!-- figures -->\n1 s\n<!-- end figures -->" in text
    assert "<!-- chaos -->\nnew\n<!-- end chaos -->" in text
    page.write_text(text.replace("\n<!-- chaos-vllm -->\n<!-- end chaos-vllm -->\n", ""))
    write_part(page, "chaos-vllm", "real\n")
    assert page.read_text().endswith("<!-- chaos-vllm -->\nreal\n<!-- end chaos-vllm -->\n")

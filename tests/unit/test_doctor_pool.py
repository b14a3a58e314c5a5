"""What the doctor says of a pool, and how findings look."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from covey.doctor.pool import check_pool
from covey.doctor.report import findings_table

OWN = "1" * 32


def member(name: str, node: str, **more: Any) -> dict[str, Any]:
    facts = {"name": name, "node_id": node, "link_addresses": ["10.0.0.2:8082"]}
    usual = {"facts": facts, "load": {"models": []}, "reachable": True, "round_trip_ms": 1.0, "silent_for_s": 0.0}
    return usual | more


def pool_of(*members: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"node_id": OWN, "leader_node_id": OWN, "models": [{"model": "m"}], "members": list(members)} | more


BROKEN = {"models": [{"model": "big", "state": "failed", "detail": "out of memory"}]}


@pytest.mark.parametrize(
    ("pool", "expected", "said"),
    [
        (pool_of(member("a", OWN), member("b", "2" * 32)), [("ok", "pool")], "2 machines"),
        (pool_of(member("b", "2" * 32, reachable=False)), [("warn", "machine b")], "10.0.0.2:8082"),
        (pool_of(member("b", "2" * 32, round_trip_ms=80.0)), [("warn", "machine b")], "cable"),
        (pool_of(member("a", OWN, reachable=False, round_trip_ms=99.0)), [("ok", "pool")], ""),
        (pool_of(member("a", OWN, load=BROKEN)), [("fail", "model big")], "restart"),
        (pool_of(member("a", OWN), leader_node_id=""), [("warn", "leader")], "5 s"),
        (pool_of(member("a", OWN), models=[]), [("warn", "models")], "--model"),
    ],
)
def test_check_pool(pool: dict[str, Any], expected: list[tuple[str, str]], said: str) -> None:
    findings = check_pool(pool)
    assert [(finding.level, finding.title) for finding in findings] == expected
    assert said in findings[0].fix + findings[0].detail


def test_problems_are_shown_first_with_their_fix() -> None:
    findings = [
        {"level": "ok", "title": "disk", "detail": "fine", "fix": ""},
        {"level": "fail", "title": "vLLM", "detail": "[missing]", "fix": "pip install 'covey[cpu]'"},
        {"level": "warn", "title": "clock", "detail": "off", "fix": "set it"},
    ]
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(findings_table(findings))
    console.file.close()
    lines = console.export_text().splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == ["problem", "warning", "ok"]
    assert "[missing]" in lines[0]
    assert "covey[cpu]" in lines[1]

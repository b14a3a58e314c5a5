"""What the doctor says of a pool."""

from __future__ import annotations

from typing import Any

import pytest

from covey.doctor.pool import check_pool
from covey_mesh.core.names import NodeId
from covey_mesh.io.path_probe import PathProbe, Reach

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


PEER = NodeId("2" * 32)


@pytest.mark.parametrize(
    ("reach", "said"),
    [
        (Reach.SILENT, "--peer 10.0.0.2:8082"),
        (Reach.REFUSED, "covey up"),
        (Reach.UNTRUSTED, "used twice"),
        (Reach.FROZEN, "frozen"),
        (Reach.SMALL, "mtu 1280"),
        (Reach.WHOLE, "wait 5 s"),
    ],
)
def test_a_machine_without_a_link_is_explained_by_dialing_it(reach: Reach, said: str) -> None:
    pool = pool_of(member("b", PEER, reachable=False))
    (finding,) = check_pool(pool, {PEER: PathProbe("10.0.0.2:8082", reach)})
    assert (finding.level, finding.title) == ("warn", "machine b")
    assert said in finding.fix
    assert [one.level for one in check_pool(pool, {}, {PEER})] == ["ok"]


def test_a_machine_of_which_nothing_is_known_but_its_name() -> None:
    facts = {"name": "", "node_id": PEER, "link_addresses": []}
    (finding,) = check_pool(pool_of(member("b", PEER, facts=facts, load=None, reachable=False)))
    assert finding.title == "machine 22222222"
    assert "--peer" in finding.fix

"""The doctor's looks at the network without any agent; test_doctor_network.py has the command on whole pools."""

from __future__ import annotations

import pytest
from tests.lan.conftest import MakeLab
from tests.lan.lab import Host
from tests.lan.program import Program

pytestmark = pytest.mark.lan

POOL, OWN, PEER = "a" * 32, "1" * 32, "2" * 32
OUT, INTO = "multicast out on eth0 (IPv4)", "multicast in on eth0 (IPv4)"


def examine(host: Host) -> dict[str, tuple[str, str]]:
    """Title -> (level, fix)."""
    program = Program(host, "examine_network", OWN)
    program.wait("the end", lambda e: e["event"] == "done", timeout_s=20.0)
    return {e["title"]: (e["level"], e["fix"]) for e in program.events if e["event"] == "finding"}


def neighbour(host: Host, node: str = PEER) -> Program:
    program = Program(host, "discover", "--pool", POOL, "--node", node, "--name", "neighbour")
    program.wait("its start", lambda e: e["event"] == "started")
    return program


def test_a_switch_that_lets_nothing_through(make_lab: MakeLab) -> None:
    lab = make_lab(2)
    neighbour(lab.hosts[1])
    lab.hosts[1].unplug()
    found = examine(lab.hosts[0])
    assert found[INTO][0] == "warn"
    assert "--peer" in found[INTO][1]


def test_no_address_and_no_cable(make_lab: MakeLab) -> None:
    lab = make_lab(2, addresses=False)
    lab.hosts[0].unplug()
    assert examine(lab.hosts[0])["addresses"][0] in ("warn", "fail")
    lab.hosts[1].add_address("10.77.0.2")
    lab.hosts[1].unplug()
    level, fix = examine(lab.hosts[1])["addresses"]
    assert level == "fail"
    assert "cable" in fix


def test_a_copied_machine(make_lab: MakeLab) -> None:
    lab = make_lab(2)
    neighbour(lab.hosts[1], node=OWN)
    level, fix = examine(lab.hosts[0])["machine ids"]
    assert level == "fail"
    assert "covey join" in fix

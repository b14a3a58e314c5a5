"""`<pool>.local` on a LAN: several machines answer for one name, and one that stops is forgotten."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.lan.avahi import Avahi, resolves_for_everybody
from tests.lan.conftest import MakeLab
from tests.lan.program import Program

from covey_mesh.core.pool_name import POOL_NAME_TTL_S

pytestmark = pytest.mark.lan

HOST = "covey.local"


def resolved(resolver: Program) -> list[str]:
    return list(resolver.ask(command="resolve", host=f"{HOST}.")["addresses"])


def await_addresses(resolver: Program, wanted: list[str], timeout_s: float = 4.0) -> None:
    """A machine that has just announced answers again only after a second, so "both" may take two questions."""
    deadline = time.monotonic() + timeout_s
    while (found := resolved(resolver)) != wanted:
        assert time.monotonic() < deadline, f"{HOST} is {found}, not {wanted}"


def test_two_gateways_share_the_name_and_a_withdrawn_one_disappears(
    make_lab: MakeLab, needs_avahi: None, tmp_path: Path
) -> None:
    lab = make_lab(3)
    first, second = (Program(host, "answer_pool_name", "covey") for host in lab.hosts[:2])
    for program in (first, second):
        program.wait("its start", lambda e: e["event"] == "published")
    resolver, avahi = Program(lab.hosts[2], "resolve"), Avahi(lab.hosts[2], tmp_path)
    resolver.wait("its start", lambda e: e["event"] == "started")
    both = ["10.77.0.1", "10.77.0.2"]
    await_addresses(resolver, both)
    assert avahi.resolve(HOST) in both
    assert avahi.cached_addresses(HOST) == set(both)
    everybody = resolves_for_everybody()
    assert not everybody or avahi.getent(HOST) <= set(both)

    first.ask(command="withdraw")
    time.sleep(1.2)  # RFC 6762 section 10.1: a goodbye is obeyed after one second.
    assert resolved(resolver) == ["10.77.0.2"]
    assert avahi.cached_addresses(HOST) == {"10.77.0.2"}
    assert avahi.resolve(HOST) == "10.77.0.2"
    assert not everybody or avahi.getent(HOST) == {"10.77.0.2"}

    first.ask(command="publish")
    await_addresses(resolver, both)
    second.stop()
    time.sleep(1.2)
    assert resolved(resolver) == ["10.77.0.1"]
    assert avahi.resolve(HOST) == "10.77.0.1"


def test_a_killed_gateway_is_forgotten_within_its_time_to_live(make_lab: MakeLab) -> None:
    lab = make_lab(3)
    first, second = (Program(host, "answer_pool_name", "covey") for host in lab.hosts[:2])
    resolver = Program(lab.hosts[2], "resolve")
    for program in (first, second):
        program.wait("its start", lambda e: e["event"] == "published")
    resolver.wait("its start", lambda e: e["event"] == "started")
    await_addresses(resolver, ["10.77.0.1", "10.77.0.2"])
    first.kill()
    await_addresses(resolver, ["10.77.0.2"], POOL_NAME_TTL_S + 2)


def test_the_name_follows_a_changed_address(make_lab: MakeLab) -> None:
    lab = make_lab(2)
    first, resolver = Program(lab.hosts[0], "answer_pool_name", "covey"), Program(lab.hosts[1], "resolve")
    first.wait("its start", lambda e: e["event"] == "published")
    resolver.wait("its start", lambda e: e["event"] == "started")
    assert resolved(resolver) == ["10.77.0.1"]
    lab.hosts[0].change_address("10.77.0.11")
    await_addresses(resolver, ["10.77.0.11"], 4)


def test_a_plain_dns_client_is_answered_directly(make_lab: MakeLab) -> None:
    lab = make_lab(2)
    first = Program(lab.hosts[0], "answer_pool_name", "covey")
    first.wait("its start", lambda e: e["event"] == "published")
    client = Program(lab.hosts[1], "plain_dns", f"{HOST}.")
    answer = client.wait("the answer", lambda e: e["event"] == "answer")
    assert answer["addresses"] == ["10.77.0.1"]
    assert answer["same_id"]
    assert answer["question"] == f"{HOST}."

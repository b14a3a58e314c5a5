"""A whole pool on a LAN: three hosts with real mDNS and mutual TLS, simulated engines, and what goes wrong in offices.

Every test leaves the pool whole for the next one. Times are printed at the end of the run.
"""

from __future__ import annotations

import concurrent.futures
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from tests.lan.agents import HTTP_PORT, POOL_NAME, SLOW_PROMPT, HostAgent, LanPool, await_leader, simulated_pool
from tests.lan.avahi import Avahi, Browsed
from tests.lan.client import Answered, HostClient, chat
from tests.lan.conftest import MakeLab
from tests.lan.lab import Host
from tests.lan.load import Asking, Load
from tests.lan.program import Program
from tests.support.polling import wait_until
from tests.support.real_agents import SHARED_MODEL

from covey.errors import UserError
from covey_mesh.core.pool_name import POOL_NAME_TTL_S

pytestmark = pytest.mark.lan

NAMES = ("h1", "h2", "h3")
Note = Callable[[str, float], None]


@pytest.fixture(scope="module")
def hosts(make_module_lab: MakeLab) -> list[Host]:
    """h1 to h3 for the pool, h4 for clients that are no part of it."""
    made = make_module_lab(4).hosts
    # An address on which the agents, told 0.0.0.0, do not answer.
    made[0].add_address("fd00:77::1", 64)
    return list(made)


@pytest.fixture(scope="module")
def pool(hosts: list[Host]) -> Iterator[LanPool]:
    made = simulated_pool(hosts[:3])
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture
def outsider(hosts: list[Host]) -> Host:
    return hosts[3]


def served(client: HostClient, model: str) -> bool:
    """Whether one chat comes to a good end now."""
    try:
        chat(client, model)
    except UserError:
        return False
    return True


@pytest.mark.parametrize("entry", NAMES)
@pytest.mark.parametrize("server", NAMES)
def test_a_request_entered_at_each_is_served_by_each(pool: LanPool, entry: str, server: str) -> None:
    answered = chat(pool[entry].client, f"only-{server}")
    assert answered.machine == server
    assert answered.text
    assert answered.attempts == 1


@pytest.mark.parametrize("entry", NAMES)
def test_from_the_lan_a_key_is_needed(pool: LanPool, entry: str, outsider: Host) -> None:
    assert chat(pool[entry].client_from(outsider), f"only-{entry}").machine == entry
    body = {"model": SHARED_MODEL, "messages": [{"role": "user", "content": "Hello"}]}
    for key in ("", "a-key-that-was-never-given-to-anyone"):
        stranger = pool[entry].client_from(outsider, key)
        assert stranger.status("POST", "/v1/chat/completions", body) == 401
        for path in ("/v1/models", "/covey/v1/pool", "/metrics"):
            assert stranger.status("GET", path) == 401, path


def test_machines_know_each_other_from_mdns_and_not_from_a_flag(pool: LanPool) -> None:
    for agent in pool.members:
        assert "peers" not in agent.settings_file.read_text()
        found = pool.pool(agent)
        assert found is not None
        dialable = {m["facts"]["name"]: m["facts"]["link_addresses"] for m in found["members"]}
        assert dialable == {f"h{n}": [f"10.77.0.{n}:8082"] for n in (1, 2, 3)}, "only where the link answers"


def test_avahi_sees_every_machine_with_its_capacity(
    pool: LanPool, outsider: Host, needs_avahi: None, tmp_path: Path
) -> None:
    avahi = Avahi(outsider, tmp_path)

    def all_three() -> dict[str, Browsed] | None:
        found = {one.txt.get("name", ""): one for one in avahi.browse()}
        return found if set(found) == set(NAMES) else None

    seen = wait_until(all_three, "avahi-browse lists the three machines")
    for agent in pool.members:
        one = seen[agent.name]
        assert (one.address, one.port) == (agent.host.address, 8082)
        assert one.txt["id"] == agent.node_id
        assert int(one.txt["total_gib"]) >= int(one.txt["free_gib"]) >= 0
        assert int(one.txt["total_gib"]) > 0
        assert one.txt["http"] == str(HTTP_PORT)
        assert one.txt["gpu"]


def test_only_addresses_that_answer_are_announced(pool: LanPool, outsider: Host) -> None:
    """h1 has an IPv6 address, too, and listens on 0.0.0.0: whoever dialed the other would think it dead."""
    found = pool.pool(pool["h1"])
    assert found is not None
    looking = Program(outsider, "discover", "--pool", found["pool_id"], "--node", "f" * 32)
    for agent in pool.members:
        hint = looking.wait(agent.name, lambda e, a=agent: e["event"] == "hint" and e["claimed"] == a.node_id)
        assert hint["addresses"] == [f"{agent.host.address}:8082"]
    looking.stop()


def resolved(resolver: Program) -> set[str]:
    return set(resolver.ask(command="resolve", host=f"{POOL_NAME}.local.")["addresses"])


def await_name(resolver: Program, wanted: set[str], timeout_s: float = 15.0) -> None:
    wait_until(lambda: resolved(resolver) == wanted, f"{POOL_NAME}.local is {sorted(wanted)}", timeout_s)


def test_the_pools_name_is_every_gateway_that_listens_on_the_lan(
    pool: LanPool, outsider: Host, needs_avahi: None, tmp_path: Path, measured: Note
) -> None:
    resolver, avahi = Program(outsider, "resolve"), Avahi(outsider, tmp_path)
    resolver.wait("its start", lambda e: e["event"] == "started")
    everybody = {str(agent.host.address) for agent in pool.members}
    await_name(resolver, everybody)
    assert avahi.resolve(f"{POOL_NAME}.local") in everybody
    dead, closed = pool["h2"], pool["h3"]
    dead.kill()
    killed_s = time.monotonic()
    await_name(resolver, everybody - {str(dead.host.address)}, POOL_NAME_TTL_S + 15)
    measured("a killed gateway leaves the pool's name", time.monotonic() - killed_s)
    closed.stop()
    closed.extra = ("--http", f"127.0.0.1:{HTTP_PORT}")
    try:
        closed.start()
        closed.wait_answering()
        dead.start()
        dead.wait_answering()
        pool.wait_whole()
        await_name(resolver, everybody - {str(closed.host.address)})
    finally:
        closed.stop()
        closed.extra = ()
    pool.restart(closed)
    await_name(resolver, everybody)


def test_killing_the_leader_fails_no_request(pool: LanPool, measured: Note) -> None:
    leader = await_leader(pool, pool.members, pool.members)
    survivors = pool.others(leader)
    a, b = survivors
    asking = [Asking(x.client, f"only-{y.name}") for x in survivors for y in survivors]
    # Not streamed: also what the leader itself was working on is asked for again, elsewhere.
    asking += [Asking(x.client, SHARED_MODEL, stream=False) for x in survivors]
    with Load(asking) as load:
        load.more(50)
        leader.kill()
        killed_s = time.monotonic()
        await_leader(pool, survivors, survivors)
        measured("kill -9 of the leader until both others have a new one", time.monotonic() - killed_s)
        load.more(200)
    assert load.failed == []
    assert {one.machine for one in load.answered[-100:]} == {a.name, b.name}
    started_s = time.monotonic()
    pool.restart(leader)
    measured("the killed machine is back, from `covey up` on", time.monotonic() - started_s)


def test_a_machine_killed_before_its_first_token_is_not_noticed_by_the_client(pool: LanPool, measured: Note) -> None:
    entry = pool["h1"]
    answers: list[Answered] = []
    client = threading.Thread(target=lambda: answers.append(chat(entry.client, "pair", prompt=SLOW_PROMPT)))
    client.start()
    victim = wait_until(lambda: running_on(pool, entry, "pair"), "the request runs somewhere")
    victim.kill()
    killed_s = time.monotonic()
    client.join(60)
    measured("kill -9 before the first token until the whole answer came from elsewhere", time.monotonic() - killed_s)
    pool.restart(victim)
    (answered,) = answers
    assert answered.machine in {"h2", "h3"} - {victim.name}
    assert answered.attempts == 2
    assert answered.text


def running_on(pool: LanPool, viewer: HostAgent, model: str) -> HostAgent | None:
    """The machine that runs a request of `model` now, as one agent sees it."""
    for member in (pool.pool(viewer) or {"members": []})["members"]:
        for load in (member["load"] or {"models": []})["models"]:
            if load["model"] == model and load["running_requests"]:
                return pool[member["facts"]["name"]]
    return None


@pytest.mark.parametrize("leads", [True, False], ids=["the leader", "another machine"])
def test_a_pulled_cable_splits_the_pool_and_put_back_joins_it(pool: LanPool, leads: bool, measured: Note) -> None:
    leader = await_leader(pool, pool.members, pool.members)
    away = leader if leads else pool.others(leader)[0]
    here = pool.others(away)
    # Not streamed: what the machine that went away was working on is asked for again, elsewhere.
    asking = [Asking(x.client, f"only-{y.name}") for x in here for y in here]
    asking += [Asking(x.client, SHARED_MODEL, stream=False) for x in here]
    with Load(asking) as load:
        load.more(50)
        away.host.unplug()
        try:
            split(pool, away, here, measured)
            if leads:
                refused_in_time(away, here, measured)
        finally:
            away.host.plug()
        rejoined(pool, away, here, measured)
        load.more(100)
    assert load.failed == []


def split(pool: LanPool, away: HostAgent, here: Sequence[HostAgent], measured: Note) -> None:
    """Each side comes to a leader of its own and serves its own."""
    unplugged_s = time.monotonic()
    await_leader(pool, here, here)
    await_leader(pool, [away], [away])
    measured("pulled cable until each side has a leader of its own", time.monotonic() - unplugged_s)
    assert chat(away.client, SHARED_MODEL).machine == away.name
    for agent in here:
        assert chat(agent.client, SHARED_MODEL).machine != away.name


def refused_in_time(away: HostAgent, here: Sequence[HostAgent], measured: Note) -> None:
    """A model whose only machine is away: waited for a little, then refused."""
    asked_s = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor() as threads:
        found = list(threads.map(lambda agent: served(agent.client, f"only-{away.name}"), here))
    assert not any(found)
    measured("patience with a model whose only machine is away", time.monotonic() - asked_s)


def rejoined(pool: LanPool, away: HostAgent, here: Sequence[HostAgent], measured: Note) -> None:
    """It serves and is served, and all have one leader."""
    plugged_s = time.monotonic()
    wait_until(lambda: served(here[0].client, f"only-{away.name}"), f"{away.name} serves again")
    wait_until(lambda: served(away.client, f"only-{here[0].name}"), f"{away.name} is served again")
    measured("cable put back until it serves and is served", time.monotonic() - plugged_s)
    await_leader(pool, pool.members, pool.members)
    measured("cable put back until there is one leader", time.monotonic() - plugged_s)
    pool.wait_whole()
    for entry in pool.members:
        for server in pool.members:
            assert chat(entry.client, f"only-{server.name}").machine == server.name


def test_machines_that_hear_no_multicast_become_members(pool: LanPool, measured: Note) -> None:
    """h2 and h3 hear no announcement and have forgotten everybody: h1 dials both, and tells each of the other."""
    deaf = [pool["h2"], pool["h3"]]
    for agent in deaf:
        agent.stop()
        agent.host.block_inbound(5353)
        (agent.state_dir / "peers.json").unlink(missing_ok=True)
        membership = agent.state_dir / "pool.json"
        membership.write_text(json.dumps({**json.loads(membership.read_text()), "peers": []}))
    try:
        started_s = time.monotonic()
        for agent in deaf:
            agent.start()
        for agent in deaf:
            agent.wait_answering()
        pool.wait_whole()
        measured("two machines that hear no multicast are members, from `covey up` on", time.monotonic() - started_s)
        assert chat(deaf[0].client, "only-h3").machine == "h3"
        assert chat(deaf[1].client, "only-h2").machine == "h2"
        assert chat(deaf[1].client, "only-h1").machine == "h1"
    finally:
        for agent in deaf:
            agent.host.unblock()

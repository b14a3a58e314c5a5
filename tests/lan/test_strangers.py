"""What a stranger on the LAN gets from a whole pool: nothing. Rogue announcements, foreign certificates, ports."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.lan.agents import (
    DATA_PORT,
    ENROL_PORT,
    GRPC_PORT,
    HTTP_PORT,
    KEY,
    LINK_PORT,
    HostAgent,
    LanPool,
    simulated_pool,
)
from tests.lan.client import chat, exchange
from tests.lan.conftest import MakeLab
from tests.lan.forged import Credentials, client_tls, of_another_pool, with_names_of
from tests.lan.lab import Host
from tests.lan.listening import listening
from tests.lan.load import Asking, Load
from tests.lan.program import Event, Program
from tests.support.polling import wait_until

from covey.demo.agent_process import DemoFailed
from covey.errors import UserError
from covey_mesh.core.token import decode_token

pytestmark = pytest.mark.lan

OTHER_POOL = "b" * 32
NOBODY = "9" * 32
NOBODYS_ADDRESS = "10.77.0.66"
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000")
OPENINGS = [b"GET / HTTP/1.1\r\nHost: h1\r\n\r\n", HTTP2_PREFACE, bytes(64), b"\xff" * 5000]


@pytest.fixture(scope="module")
def hosts(make_module_lab: MakeLab) -> list[Host]:
    return list(make_module_lab(4).hosts)


@pytest.fixture(scope="module")
def pool(hosts: list[Host]) -> Iterator[LanPool]:
    made = simulated_pool(hosts[:3])
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture
def stranger(hosts: list[Host]) -> Host:
    return hosts[3]


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Credentials:
    return of_another_pool(tmp_path_factory.mktemp("foreign") / "state")


def pool_id(pool: LanPool) -> str:
    found = pool.pool(pool["h1"])
    assert found is not None
    return str(found["pool_id"])


def trap(host: Host, port: int, credentials: Credentials) -> Program:
    made = Program(host, "trap", str(port), str(credentials.certificate), str(credentials.key))
    made.wait("its start", lambda e: e["event"] == "listening")
    return made


def caught(made: Program) -> list[Event]:
    return [event for event in made.events if event["event"] == "connection"]


def test_rogue_announcements_bring_their_listeners_no_request(
    pool: LanPool, stranger: Host, foreign: Credentials, tmp_path: Path
) -> None:
    victim, asking = pool["h2"], [pool["h1"], pool["h3"]]
    forged = with_names_of(tmp_path / "forged", pool_id(pool), victim.node_id)
    wrong_pool, stolen, invented = (trap(stranger, 9000 + n, c) for n, c in enumerate((foreign, forged, foreign)))
    rogue = Program(stranger, "rogue")
    ours, here = {"command": "announce", "pool": pool_id(pool)}, {"address": stranger.address}
    with Load([Asking(a.client, f"only-{b.name}") for a in asking for b in asking]) as load:
        rogue.ask(command="announce", pool=OTHER_POOL, instance="other", node=NOBODY, port=9000, **here)
        rogue.ask(**ours, instance="stolen", node=victim.node_id, port=9001, **here)
        rogue.ask(**ours, instance="false", node=victim.node_id, port=LINK_PORT, address=NOBODYS_ADDRESS)
        rogue.ask(**ours, instance="invented", node=NOBODY, port=9002, **here)
        from_all = {agent.host.address for agent in pool.members}
        wait_until(lambda: {e["source"] for e in caught(invented)} == from_all, "each machine tries the invented one")
        # With the real one gone, the others look for it wherever they were told.
        victim.kill()
        from_others = {agent.host.address for agent in asking}
        wait_until(lambda: {e["source"] for e in caught(stolen)} >= from_others, "both try the stolen id's address")
        with pytest.raises(UserError):
            chat(pool["h1"].client, "only-h2")
        load.more(100)
        pool.restart(victim)
        assert chat(pool["h1"].client, "only-h2").machine == "h2"
        load.more(100)
    assert load.failed == []
    assert caught(wrong_pool) == []
    for event in caught(stolen) + caught(invented):
        assert event["handshake"].startswith("failed"), "the machine of the pool ends the handshake"
        assert event["received"] == ""
    assert {m["facts"]["node_id"] for m in (pool.pool(pool["h3"]) or {})["members"]} == {
        a.node_id for a in pool.members
    }


def test_only_the_gateway_and_the_link_listen_on_the_network(pool: LanPool) -> None:
    for agent in pool.members:
        assert listening(agent.pid, "tcp") == {HTTP_PORT, GRPC_PORT, LINK_PORT, DATA_PORT}
        assert listening(agent.pid, "udp") == {5353}


@pytest.mark.parametrize("port", [LINK_PORT, DATA_PORT])
@pytest.mark.parametrize("opening", OPENINGS, ids=["HTTP/1.1", "HTTP/2", "zeros", "ones"])
def test_the_link_says_nothing_to_raw_tcp(pool: LanPool, stranger: Host, opening: bytes, port: int) -> None:
    assert heard_nothing(stranger, pool["h2"], port, opening, None)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("whose", ["nobody's", "another pool's", "forged"])
def test_the_link_says_nothing_without_a_certificate_of_the_pool(
    pool: LanPool, stranger: Host, foreign: Credentials, tmp_path: Path, whose: str, version: ssl.TLSVersion
) -> None:
    forged = with_names_of(tmp_path / "forged", pool_id(pool), pool["h1"].node_id)
    shown = {"nobody's": None, "another pool's": foreign, "forged": forged}[whose]
    for agent in pool.members:
        for port in (LINK_PORT, DATA_PORT):
            assert heard_nothing(stranger, agent, port, HTTP2_PREFACE, client_tls(shown, version))


def test_the_link_talks_to_a_machine_of_the_pool(pool: LanPool, stranger: Host) -> None:
    """That the tests above can fail: the very same opening with a certificate of the pool is answered."""
    state_dir = pool["h3"].state_dir
    member = client_tls(Credentials(state_dir / "node.crt", state_dir / "node.key"))
    assert not heard_nothing(stranger, pool["h2"], LINK_PORT, HTTP2_PREFACE, member)


def heard_nothing(host: Host, agent: HostAgent, port: int, said: bytes, tls: ssl.SSLContext | None) -> bool:
    """True where the connection was ended without a byte of any protocol behind TLS."""
    assert agent.host.address is not None
    try:
        heard = exchange(host, agent.host.address, port, said, tls)
    except (ssl.SSLError, ConnectionResetError, BrokenPipeError):
        return True
    is_alert = tls is None and heard[:1] == b"\x15" and len(heard) <= 7
    return heard == b"" or is_alert


def test_the_enrolment_port_is_open_during_an_invitation_only_and_says_nothing_without_the_token(
    pool: LanPool, stranger: Host, foreign: Credentials
) -> None:
    keeper = pool["h1"]
    for agent in pool.members:
        with pytest.raises(ConnectionRefusedError):
            exchange(stranger, str(agent.host.address), ENROL_PORT, b"hello")
    token = keeper.covey("invite")["token"]
    assert listening(keeper.pid, "tcp") == {HTTP_PORT, GRPC_PORT, LINK_PORT, DATA_PORT, ENROL_PORT}
    for opening in (*OPENINGS, b"\0\0\0\x10" + bytes(16)):
        assert heard_nothing(stranger, keeper, ENROL_PORT, opening, None)
    for shown in (None, foreign):
        assert heard_nothing(stranger, keeper, ENROL_PORT, HTTP2_PREFACE, client_tls(shown))
    state_dir = str(keeper.state_dir.parent / "stranger")
    guessed = str(changed(token))
    with pytest.raises(DemoFailed, match="closed without an answer"):
        join(stranger, keeper, state_dir, guessed)
    keeper.covey("invite", "--revoke-all")
    with pytest.raises(ConnectionRefusedError):
        exchange(stranger, str(keeper.host.address), ENROL_PORT, b"hello")
    with pytest.raises(DemoFailed, match="nothing listens there"):
        join(stranger, keeper, state_dir, token)


def changed(token: str) -> str:
    """The same token with another secret: what somebody would guess who saw where tokens point."""
    found = decode_token(token)
    return type(found)(found.pool_id, found.token_id, bytes(len(found.secret)), found.addresses).encode()


def join(host: Host, keeper: HostAgent, state_dir: str, token: str) -> None:
    """`covey join` on a host that is in no pool."""
    done = host.run(keeper.command("join", token, state_dir=Path(state_dir)), timeout_s=60)
    if done.returncode != 0:
        raise DemoFailed(done.stderr)


@pytest.mark.parametrize(("key", "status"), [("", "UNAUTHENTICATED"), ("wrong" * 5, "UNAUTHENTICATED"), (KEY, "OK")])
def test_the_gateways_grpc_asks_for_a_key(pool: LanPool, stranger: Host, key: str, status: str) -> None:
    program = Program(stranger, "grpc_models", f"{pool['h2'].host.address}:{GRPC_PORT}", key)
    answer = program.wait("the answer", lambda e: e["event"] == "answer")
    assert answer["status"] == status
    assert bool(answer["models"]) == (status == "OK")

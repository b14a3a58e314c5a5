"""Networks with exactly one fault each: `covey doctor` says exactly that, with its fix; on a healthy one, nothing.

Real agents on a switch whose wires filter, delay and cut, firewalls of the hosts, and the command as a person runs it.
The pool is shared; every test takes its fault away again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.lan.agents import DATA_PORT, LINK_PORT, HostAgent, LanPool
from tests.lan.conftest import MakeLab
from tests.lan.lab import Host, Lab
from tests.lan.program import Program
from tests.lan.shell import ip, tool
from tests.lan.switch import SoftwareSwitch
from tests.lan.wires import Line
from tests.support.polling import wait_until
from tests.support.real_agents import SHARED_MODEL

pytestmark = pytest.mark.lan

DOCTOR_TIMEOUT_S = 40.0
ONLY_SYN = "tcp flags & (syn|ack) == syn"
OF_THIS_MACHINE = {"GPU", "Python", "disk", "memory", "open files", "office.local", "shared memory", "vLLM"}
"""Findings about the machine that runs the tests, not about the network."""

Found = dict[str, tuple[str, str]]
"""Title -> (level, detail and fix) of everything that is not in order."""


class ShiftedAgent(HostAgent):
    """An agent whose clock can be set wrong."""

    @property
    def shift_file(self) -> Path:
        return self.state_dir.parent / f"{self.name}.shift"

    def command(self, *arguments: str, state_dir: Path | None = None) -> list[str]:
        argv = super().command(*arguments, state_dir=state_dir)
        at = argv.index("covey", argv.index("-m"))
        return [*argv[:at], "tests.lan.programs.shifted_clock", str(self.shift_file), *argv[at + 1 :]]

    def set_clock(self, off_s: float) -> None:
        self.shift_file.write_text(str(off_s))


class Office:
    """Three machines in a pool, h4 that is no part of it, and h5 behind h4 on a network (VLAN) of its own."""

    def __init__(self, lab: Lab, switch: SoftwareSwitch) -> None:
        self.switch = switch
        self.hosts = lab.hosts
        self.pool = LanPool(lab.hosts[:3], SIMULATED, {host.name: [SHARED_MODEL] for host in lab.hosts[:3]})
        folder = self.pool["h3"].state_dir.parent / "shifted"
        folder.mkdir()
        self.shifted = self.pool.agents["h3"] = ShiftedAgent(
            lab.hosts[2], folder, (*SIMULATED, "--model", SHARED_MODEL)
        )
        self.shifted.set_clock(0)
        self.announcing: Program | None = None
        self.route()

    def route(self) -> None:
        """h5's wires lead to h4 alone, which routes."""
        *office, router, behind = self.hosts
        self.switch.partition([self.port(host) for host in office], [self.port(behind)])
        behind.change_address("10.78.0.5")
        router.add_address("10.78.0.4")
        tool("ip", "netns", "exec", router.namespace, "sysctl", "-q", "net.ipv4.ip_forward=1")
        ip("-n", behind.namespace, "route", "add", "default", "via", "10.78.0.4")
        for host in office:
            ip("-n", host.namespace, "route", "add", "10.78.0.0/24", "via", "10.77.0.4")

    def heal(self) -> None:
        """No fault anywhere."""
        self.switch.heal()
        *office, _, behind = self.hosts
        self.switch.partition([self.port(host) for host in office], [self.port(behind)])
        for host in self.hosts:
            host.unblock()
        self.shifted.set_clock(0)
        if self.announcing is not None:
            self.announcing.stop()
            self.announcing = None

    def port(self, host: Host) -> str:
        return self.switch.ports[self.hosts.index(host)]

    def wires(self, line: Line, host: Host, towards: bool = True, away: bool = True) -> None:
        """All wires of one host."""
        others = [self.port(one) for one in self.hosts[:3] if one is not host]
        if away:
            self.switch.set_line(line, [self.port(host)], others)
        if towards:
            self.switch.set_line(line, others, [self.port(host)])


SIMULATED = ("--engine", "simulated")


LOOKS_MAX = 3
"""A single look may miss a fault that loses packets by chance, as where a person is told to look again."""


def examine(agent: HostAgent) -> Found:
    """What `covey doctor` says of the network; checks its exit code."""
    done = agent.host.run(agent.command("--json", "doctor"), timeout_s=DOCTOR_TIMEOUT_S)
    assert done.stderr == ""
    findings: list[dict[str, str]] = json.loads(done.stdout)["findings"]
    assert done.returncode == (5 if any(one["level"] == "fail" for one in findings) else 0)
    return {
        one["title"]: (one["level"], f"{one['detail']} -> {one['fix']}")
        for one in findings
        if one["level"] != "ok" and one["title"] not in OF_THIS_MACHINE
    }


def only(found: Found, title: str, level: str, *said: str) -> None:
    """That finding, with those words, and no other."""
    assert list(found) == [title], found
    assert found[title][0] == level
    assert [words for words in said if words not in found[title][1]] == []


@pytest.fixture(scope="module")
def office(make_module_lab: MakeLab) -> Iterator[Office]:
    switches: list[SoftwareSwitch] = []

    def make_switch() -> SoftwareSwitch:
        switches.append(SoftwareSwitch())
        return switches[0]

    lab = make_module_lab(5, make_switch=make_switch)
    made = Office(lab, switches[0])
    try:
        made.pool.start()
        yield made
    finally:
        made.pool.close()


@pytest.fixture
def healed(office: Office) -> Iterator[Office]:
    """The office, whole again after the test."""
    yield office
    office.heal()
    office.pool.wait_whole()


def drop(host: Host, hook: str, *matches: str) -> None:
    for match in matches:
        host.drop(hook, match)


def test_a_healthy_network(healed: Office) -> None:
    assert examine(healed.pool["h1"]) == {}


def announce(office: Office, node_id: str, name: str) -> None:
    """h4 as a machine of some other pool."""
    program = Program(office.hosts[3], "discover", "--pool", "e" * 32, "--node", node_id, "--name", name)
    program.wait("its start", lambda event: event["event"] == "started")
    office.announcing = program


FAULTS: list[tuple[str, Callable[[Office], Any], str, str, Sequence[str]]] = [
    (
        "its firewall drops links",
        lambda office: drop(office.hosts[0], "input", f"tcp dport {LINK_PORT} {ONLY_SYN}"),
        "firewall (link)", "fail", ("this machine cannot be reached at 10.77.0.1:8082", "ufw allow 8082/tcp"),
    ),
    (
        "another machine's firewall drops links",
        lambda office: drop(office.hosts[1], "input", f"tcp dport {LINK_PORT} {ONLY_SYN}"),
        "firewall (link)", "warn", ("h2 cannot be reached at 10.77.0.2:8082", "on h2: allow TCP port 8082"),
    ),
    (
        "another machine's firewall drops data channels",
        lambda office: drop(office.hosts[1], "input", f"tcp dport {DATA_PORT} {ONLY_SYN}"),
        "firewall (data_port)", "warn", ("h2 cannot be reached at 10.77.0.2:8084", "on h2: allow TCP port 8084"),
    ),
    (
        "one machine cannot dial it",
        lambda office: drop(office.hosts[0], "input", f"ip saddr 10.77.0.3 tcp dport {LINK_PORT} {ONLY_SYN}"),
        "one-way", "warn", ("h3 cannot open a connection to this machine", "allow TCP port 8082 from h3"),
    ),
    (
        "its firewall drops mDNS that comes in",
        lambda office: office.hosts[0].block_inbound(5353),
        "multicast in on eth0 (IPv4)", "fail", ("ufw allow 5353/udp",),
    ),
    (
        "its firewall drops mDNS that goes out",
        lambda office: office.hosts[0].block_outbound(5353),
        "multicast out on eth0 (IPv4)", "fail", ("allow UDP port 5353 out",),
    ),
    (
        "the access point filters multicast towards it",
        lambda office: office.wires(Line(multicast=False), office.hosts[0], away=False),
        "multicast in on eth0 (IPv4)", "warn", ("2 machines on this network spoke", "IGMP snooping"),
    ),
    (
        "the access point filters multicast from it",
        lambda office: office.wires(Line(multicast=False), office.hosts[0], towards=False),
        "multicast out on eth0 (IPv4)", "warn", ("heard by none of 2", "IGMP snooping"),
    ),
    (
        "full packets vanish",
        lambda office: drop(office.hosts[0], "input", 'iifname "eth0" meta length > 1400'),
        "path MTU", "fail", ("between this machine and all others", "here: lower the MTU", "mtu 1280"),
    ),
    (
        "another machine's clock is wrong",
        lambda office: office.shifted.set_clock(30),
        "clock", "warn", ("h3's differs from this machine's by +30", "on h3: ", "timedatectl set-ntp true"),
    ),
    (
        "a slow network",
        lambda office: office.wires(Line(delay_s=0.04), office.hosts[0]),
        "latency", "warn", ("between this machine and all others", "ms", "cable"),
    ),
    (
        "two machines of one name",
        lambda office: announce(office, "f" * 32, "h1"),
        "machine names", "warn", ("'h1' is used by", "set `name` in covey.toml"),
    ),
    # Last: TCP between the two goes on for some seconds with the pauses that it learned.
    (
        "a thin wire",
        lambda office: drop(office.hosts[0], "input", "ip saddr 10.77.0.3 limit rate over 150 kbytes/second"),
        "bandwidth", "warn", ("between this machine and h3", "Mbit/s", "cable"),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("fault", "title", "level", "said"), [pytest.param(*f[1:], id=f[0]) for f in FAULTS])
def test_one_fault(healed: Office, fault: Callable[[Office], Any], title: str, level: str, said: Sequence[str]) -> None:
    fault(healed)
    found: Found = {}
    for _ in range(LOOKS_MAX):
        found = examine(healed.pool["h1"])
        # The first look may have found one of the links at fault, and not yet the others.
        if title in found and all(words in found[title][1] for words in said):
            break
    only(found, title, level, *said)


@pytest.fixture(scope="module")
def newcomer(office: Office) -> Iterator[HostAgent]:
    """A member of the pool on h5, which has forgotten what joining told it of the others' addresses; not started."""
    pool, host = office.pool, office.hosts[4]
    agent = HostAgent(host, pool["h3"].state_dir.parent, (*SIMULATED, "--model", SHARED_MODEL))
    agent.covey("join", str(pool["h1"].covey("invite")["token"]))
    path = agent.state_dir / "pool.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "peers": []}))
    yield agent
    agent.ask_to_stop()
    agent.stop()


def test_a_machine_on_another_vlan(healed: Office, newcomer: HostAgent) -> None:
    """The fix that the finding names is the fix."""
    newcomer.start()
    newcomer.wait_answering()
    only(examine(newcomer), "other machines", "warn", "another VLAN", "start one of them with `--peer 10.78.0.5:8082`")
    newcomer.kill()
    newcomer.extra = ("--peer", "10.77.0.1:8082")
    start_linked(healed, newcomer)
    assert examine(newcomer) == {}


def start_linked(office: Office, newcomer: HostAgent) -> None:
    """One --peer is enough: the rest is learned."""

    def linked() -> bool:
        pool = office.pool.pool(newcomer)
        return pool is not None and sum(one["reachable"] for one in pool["members"]) == 4

    newcomer.start()
    newcomer.wait_answering()
    wait_until(linked, "h5 is linked with all")


def test_the_wrong_interface(healed: Office, newcomer: HostAgent) -> None:
    """Docker's bridge is what others are told to dial."""
    ip("-n", newcomer.host.namespace, "link", "add", "docker0", "type", "bridge")
    ip("-n", newcomer.host.namespace, "addr", "add", "172.17.0.1/16", "dev", "docker0")
    newcomer.kill()
    newcomer.settings_file.write_text('advertise = ["172.17.0.1"]\n' + newcomer.settings_file.read_text())
    newcomer.extra = ("--peer", "10.77.0.1:8082")
    start_linked(healed, newcomer)
    only(examine(newcomer), "interface", "fail", "172.17.0.1 (docker0)", "remove `advertise`", "set it to 10.78.0.5")

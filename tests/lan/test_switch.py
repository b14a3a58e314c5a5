"""The software switch, measured from its hosts: whoever trusts a chaos run must be able to trust the faults in it."""

from __future__ import annotations

import contextlib
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from tests.lan.client import inside
from tests.lan.conftest import MakeLab
from tests.lan.lab import Host, Lab
from tests.lan.program import Program
from tests.lan.switch import SoftwareSwitch
from tests.lan.wires import Line

pytestmark = pytest.mark.lan

PORT = 7777
SEED = 20_261_122
POOL = "d" * 32
Switched = Callable[[int], tuple[Lab, SoftwareSwitch]]


@pytest.fixture
def switched(make_lab: MakeLab) -> Switched:
    """A lab behind a software switch: `switched(3)`."""

    def make(hosts: int) -> tuple[Lab, SoftwareSwitch]:
        made: list[SoftwareSwitch] = []
        lab = make_lab(hosts, make_switch=lambda: made.append(SoftwareSwitch(SEED)) or made[0])
        return lab, made[0]

    return make


SO_RCVBUFFORCE = 33
"""From Linux' socket.h; Python has no name for it."""

BUFFER_BYTES = 4 * 1024 * 1024
"""Room for a whole flood while the reader does not run: losses must be the switch's alone."""


class Echo:
    """Answers datagrams on one host, and keeps what it heard."""

    def __init__(self, host: Host) -> None:
        with inside(host):
            self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        self.socket.bind(("0.0.0.0", PORT))
        self.socket.settimeout(0.1)
        self.heard: list[int] = []
        self._ended = False
        self._thread = threading.Thread(target=self._answer)
        self._thread.start()

    def _answer(self) -> None:
        while not self._ended:
            with contextlib.suppress(TimeoutError):
                said, sender = self.socket.recvfrom(64)
                self.heard.append(int(said))
                self.socket.sendto(said, sender)

    def close(self) -> None:
        self._ended = True
        self._thread.join()
        self.socket.close()


@contextlib.contextmanager
def echo(host: Host) -> Iterator[Echo]:
    with contextlib.closing(Echo(host)) as made:
        yield made


@contextlib.contextmanager
def asker(host: Host) -> Iterator[socket.socket]:
    with inside(host):
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with contextlib.closing(made):
        made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        made.settimeout(2.0)
        yield made


def round_trip_s(asking: socket.socket, target: Host, number: int, timeout_s: float = 2.0) -> float | None:
    """None where no answer came."""
    asking.settimeout(timeout_s)
    started_s = time.monotonic()
    asking.sendto(b"%d" % number, (str(target.address), PORT))
    try:
        while int(asking.recv(64)) != number:
            pass
    except TimeoutError:
        return None
    return time.monotonic() - started_s


def flood(asking: socket.socket, target: Host, datagrams: int, pause_s: float = 0.0005) -> list[int]:
    """Send numbered datagrams at an even pace; what came back, in order."""
    came: list[int] = []
    for number in range(datagrams):
        asking.sendto(b"%d" % number, (str(target.address), PORT))
        # Also the pause between two; unread answers would fill the socket's buffer.
        asking.settimeout(pause_s)
        with contextlib.suppress(TimeoutError):
            came.append(int(asking.recv(64)))
    # A busy machine may stall the switch for a second; what is still under way then is not lost.
    asking.settimeout(3.0)
    with contextlib.suppress(TimeoutError):
        while True:
            came.append(int(asking.recv(64)))
    return came


def test_a_perfect_switch_then_a_round_trip_of_twice_the_delay(
    switched: Switched,
) -> None:
    lab, switch = switched(2)
    near, far = lab.hosts
    with echo(far), asker(near) as asking:
        plain = [round_trip_s(asking, far, number) for number in range(20)]
        switch.set_line(Line(delay_s=0.04))
        delayed = [round_trip_s(asking, far, number) for number in range(100, 120)]
    assert None not in plain + delayed
    assert min(one for one in delayed if one) >= 0.08
    extra_s = statistics.median(one for one in delayed if one) - statistics.median(one for one in plain if one)
    print(f"40 ms each way add {extra_s * 1000:.1f} ms")
    assert 0.07 < extra_s < 0.16


def test_jitter_keeps_the_order_and_reordering_does_not(switched: Switched) -> None:
    lab, switch = switched(2)
    near, far = lab.hosts
    with echo(far) as hearing, asker(near) as asking:
        round_trip_s(asking, far, -1)
        switch.set_line(Line(jitter_s=0.05), ["port1"])
        assert flood(asking, far, 300) == list(range(300))
        switch.set_line(Line(reordering=0.1), ["port1"])
        hearing.heard.clear()
        came = flood(asking, far, 300)
    assert sorted(came) == list(range(300))
    assert came != sorted(came)
    assert 10 <= switch.wire_counts("port1", "port2")["reordered"] <= 60


def test_the_share_of_lost_and_doubled_datagrams(switched: Switched) -> None:
    lab, switch = switched(2)
    near, far = lab.hosts
    with echo(far) as hearing, asker(near) as asking:
        round_trip_s(asking, far, -1)
        before = switch.wire_counts("port1", "port2")
        switch.set_line(Line(loss=0.2), ["port1"])
        came = flood(asking, far, 1000)
        lost = switch.wire_counts("port1", "port2")["lost"] - before["lost"]
        # Of the frames lost, a few are the hosts' own (ARP, neighbour discovery).
        assert 0 <= len(came) - (1000 - lost) <= 10
        # Four standard deviations of 1,000 draws around the share.
        assert 150 <= lost <= 250
        switch.set_line(Line(duplication=0.3), ["port1"])
        hearing.heard.clear()
        flood(asking, far, 1000)
    assert set(hearing.heard) == set(range(1000))
    assert 1242 <= len(hearing.heard) <= 1358


def test_a_one_way_cut_is_one_way(switched: Switched) -> None:
    lab, switch = switched(3)
    near, far, third = lab.hosts
    with echo(far) as hearing, asker(near) as asking, asker(third) as other:
        assert round_trip_s(asking, far, 1)
        assert round_trip_s(other, far, 2)
        switch.set_line(Line(cut=True), ["port2"], ["port1"])
        assert round_trip_s(asking, far, 3, 0.5) is None
        assert 3 in hearing.heard, "it arrived; only the answer is lost"
        switch.set_line(Line(cut=True), ["port1"], ["port2"])
        switch.set_line(Line(), ["port2"], ["port1"])
        assert round_trip_s(asking, far, 4, 0.5) is None
        assert 4 not in hearing.heard
        assert round_trip_s(other, far, 5), "others are not affected"
        switch.heal()
        assert round_trip_s(asking, far, 6)


def test_partitions_and_pulled_cables(switched: Switched) -> None:
    lab, switch = switched(3)
    one, two, three = lab.hosts
    with echo(two), asker(one) as asking, asker(three) as other:
        assert round_trip_s(asking, two, 1)
        assert round_trip_s(other, two, 2)
        switch.partition(["port3"], ["port1", "port2"])
        assert round_trip_s(other, two, 3, 0.3) is None
        assert round_trip_s(asking, two, 4)
        switch.heal()
        assert round_trip_s(other, two, 5)
        two.unplug()
        assert "NO-CARRIER" in two.run(["ip", "link", "show", "eth0"]).stdout
        assert round_trip_s(other, two, 6, 0.3) is None
        two.plug()
        # The address has to be looked for again.
        assert any(round_trip_s(other, two, 7 + i, 1.0) for i in range(5))


def test_real_mdns_crosses_it_until_multicast_is_filtered(switched: Switched) -> None:
    lab, switch = switched(3)
    first = Program(lab.hosts[0], "discover", "--pool", POOL, "--node", "a" * 32)
    second = Program(lab.hosts[1], "discover", "--pool", POOL, "--node", "b" * 32)
    second.wait("the first", lambda e: e["event"] == "hint" and e["claimed"] == "a" * 32)
    first.wait("the second", lambda e: e["event"] == "hint" and e["claimed"] == "b" * 32)
    switch.set_line(Line(multicast=False))
    third = Program(lab.hosts[2], "discover", "--pool", POOL, "--node", "c" * 32)
    with echo(lab.hosts[2]), asker(lab.hosts[0]) as asking:
        assert round_trip_s(asking, lab.hosts[2], 1), "broadcast (ARP) and unicast pass"
    third.wait("its start", lambda e: e["event"] == "started")
    with pytest.raises(AssertionError, match="did not see anybody"):
        third.wait("anybody", lambda e: e["event"] == "hint", timeout_s=2.0)
    assert switch.counts()["filtered"] > 0


def test_the_same_seed_is_the_same_fate() -> None:
    from tests.lan.wires import new_wire

    fates = []
    for _ in range(2):
        wire = new_wire(SEED, "port1", "port2")
        wire.line = Line(jitter_s=0.1, loss=0.2, duplication=0.1, reordering=0.1)
        fates.append([wire.due_times_s(float(number), b"\0" * 6) for number in range(500)])
    other = new_wire(SEED + 1, "port1", "port2")
    other.line = Line(jitter_s=0.1, loss=0.2, duplication=0.1, reordering=0.1)
    assert fates[0] == fates[1]
    assert fates[0] != [other.due_times_s(float(number), b"\0" * 6) for number in range(500)]

"""The software switch's process: one TAP device a port, MAC learning, flooding, and a wire between each pair of ports.

Commands are JSON lines on standard input, each answered by one line: attach, plug, line, counts. Ends with its input.
Run it through tests.lan.switch.SoftwareSwitch. Not here: what happens to a frame (tests/lan/wires.py).
"""

from __future__ import annotations

import fcntl
import heapq
import json
import os
import select
import struct
import sys
import time
from typing import Any

from tests.lan.namespaces import inside_namespace
from tests.lan.wires import Line, Wire, new_wire

FRAME_BYTES_MAX = 2048
FRAMES_A_TURN_MAX = 64
FRAMES_HELD_MAX = 50_000
ADDRESSES_MAX = 1024

_TUNSETIFF, _TUNSETCARRIER = 0x400454CA, 0x400454E2
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000


class Port:
    """A TAP device inside a host's namespace; what is written to `device` is what the host hears."""

    def __init__(self, name: str, namespace: str, interface: str) -> None:
        self.name = name
        self.plugged = True
        with inside_namespace(namespace):
            self.device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            fcntl.ioctl(self.device, _TUNSETIFF, struct.pack("16sH22x", interface.encode(), _IFF_TAP | _IFF_NO_PI))

    def plug(self, plugged: bool) -> None:
        """The host sees its carrier come and go."""
        self.plugged = plugged
        fcntl.ioctl(self.device, _TUNSETCARRIER, struct.pack("i", int(plugged)))

    def hear(self, frame: bytes) -> None:
        """What a host cannot take (its interface is down, its queue full) is lost, as on a real LAN."""
        try:
            os.write(self.device, frame)
        except OSError:
            pass


class SwitchProcess:
    """All of it in one thread: what arrives, what is due, what is commanded."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._ports: dict[str, Port] = {}
        self._by_device: dict[int, Port] = {}
        self._learned: dict[bytes, Port] = {}
        self._wires: dict[tuple[str, str], Wire] = {}
        self._held: list[tuple[float, int, Wire, Port, bytes]] = []
        self._sequence = 0
        self._overflowed = 0
        self._poll = select.epoll()
        self._input = b""
        self._ended = False

    def run(self) -> None:
        """Until standard input ends."""
        os.set_blocking(0, False)
        self._poll.register(0, select.EPOLLIN)
        while not self._ended:
            for descriptor, _ in self._poll.poll(self._wait_s()):
                if descriptor == 0:
                    self._read_commands()
                else:
                    self._read_frames(self._by_device[descriptor])
            self._deliver_due()

    def _wait_s(self) -> float | None:
        return max(0.0, self._held[0][0] - time.monotonic()) if self._held else None

    # --- frames ------------------------------------------------------------------------------------------------------

    def _read_frames(self, port: Port) -> None:
        for _ in range(FRAMES_A_TURN_MAX):
            try:
                frame = os.read(port.device, FRAME_BYTES_MAX)
            except BlockingIOError:
                return
            except OSError:
                # The namespace was removed, and the device with it.
                self._poll.unregister(port.device)
                return
            self._forward(port, frame)

    def _forward(self, source: Port, frame: bytes) -> None:
        if not source.plugged:
            return
        target, sender = frame[:6], frame[6:12]
        if not sender[0] & 1 and (sender in self._learned or len(self._learned) < ADDRESSES_MAX):
            self._learned[sender] = source
        known = None if target[0] & 1 else self._learned.get(target)
        if known is not None:
            if known is not source:
                self._send(source, known, frame)
            return
        for port in self._ports.values():
            if port is not source:
                self._send(source, port, frame)

    def _send(self, source: Port, target: Port, frame: bytes) -> None:
        wire = self._wires[source.name, target.name]
        now_s = time.monotonic()
        for due_s in wire.due_times_s(now_s, frame[:6]):
            if due_s <= now_s:
                self._hear(wire, target, frame)
            elif len(self._held) < FRAMES_HELD_MAX:
                self._sequence += 1
                heapq.heappush(self._held, (due_s, self._sequence, wire, target, frame))
            else:
                self._overflowed += 1

    def _deliver_due(self) -> None:
        now_s = time.monotonic()
        while self._held and self._held[0][0] <= now_s:
            _, _, wire, target, frame = heapq.heappop(self._held)
            self._hear(wire, target, frame)

    def _hear(self, wire: Wire, target: Port, frame: bytes) -> None:
        """A cut also loses what is on its way."""
        if target.plugged and not wire.line.cut:
            target.hear(frame)

    # --- commands ----------------------------------------------------------------------------------------------------

    def _read_commands(self) -> None:
        piece = os.read(0, 65536)
        self._ended = not piece
        *lines, self._input = (self._input + piece).split(b"\n")
        for line in lines:
            command = json.loads(line)
            answer = getattr(self, f"_do_{command.pop('command')}")(**command)
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()

    def _do_attach(self, port: str, namespace: str, interface: str) -> dict[str, Any]:
        assert port not in self._ports
        made = Port(port, namespace, interface)
        for other in self._ports:
            self._wires[port, other] = new_wire(self._seed, port, other)
            self._wires[other, port] = new_wire(self._seed, other, port)
        self._ports[port] = self._by_device[made.device] = made
        self._poll.register(made.device, select.EPOLLIN)
        return {}

    def _do_plug(self, port: str, plugged: bool) -> dict[str, Any]:
        self._ports[port].plug(plugged)
        return {}

    def _do_line(self, sources: list[str], targets: list[str], line: dict[str, Any]) -> dict[str, Any]:
        for source in sources:
            for target in targets:
                if source != target:
                    self._wires[source, target].line = Line(**line)
        return {}

    def _do_counts(self) -> dict[str, Any]:
        counts = {f"{source}>{target}": wire.counts.as_dict() for (source, target), wire in self._wires.items()}
        return {"wires": counts, "overflowed": self._overflowed}


if __name__ == "__main__":
    SwitchProcess(int(sys.argv[1])).run()

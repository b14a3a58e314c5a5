"""What joins the hosts of a lab: a plain bridge, or a software switch whose wires delay, lose, double and cut.

Not here: what a wire does to a frame (wires.py), and the software switch's process (programs/switch.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from tests.lan.shell import TOOL_TIMEOUT_S, ip
from tests.lan.wires import Line

_ROOT = Path(__file__).resolve().parents[2]


class Switch(Protocol):
    """Joins hosts by ports; each port can be unplugged. Lives in a namespace of its own."""

    def attach(self, port: str, namespace: str, interface: str) -> None:
        """Make `interface` inside `namespace`, joined to this switch by `port`, up."""

    def unplug(self, port: str) -> None:
        """Pull the cable: the host sees its carrier go."""

    def plug(self, port: str) -> None:
        """Put it back."""

    def close(self) -> None:
        """Take everything down."""


class BridgeSwitch:
    """A Linux bridge without multicast snooping: every port hears every multicast, as with a plain office switch."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        ip("netns", "add", namespace)
        ip("-n", namespace, "link", "set", "lo", "up")
        ip("-n", namespace, "link", "add", "switch0", "type", "bridge", "mcast_snooping", "0", "forward_delay", "0")
        ip("-n", namespace, "link", "set", "switch0", "up")

    def attach(self, port: str, namespace: str, interface: str) -> None:
        """See Switch."""
        peer = ("peer", "name", interface, "netns", namespace)
        ip("-n", self._namespace, "link", "add", port, "type", "veth", *peer)
        ip("-n", self._namespace, "link", "set", port, "master", "switch0", "up")
        ip("-n", namespace, "link", "set", interface, "up")

    def unplug(self, port: str) -> None:
        """See Switch."""
        ip("-n", self._namespace, "link", "set", port, "down")

    def plug(self, port: str) -> None:
        """See Switch."""
        ip("-n", self._namespace, "link", "set", port, "up")

    def close(self) -> None:
        """See Switch."""
        ip("netns", "del", self._namespace, check=False)


class SwitchFailed(Exception):
    """The software switch's process ended; its own words are on standard error."""


class SoftwareSwitch:
    """Every directed pair of ports is a wire of its own, all perfect at first. Changed at any time, from any thread.

    What befalls the frames of a pair follows from `seed` and their order. The process dies with this one, and its
    devices with it.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.ports: list[str] = []
        self._lock = threading.Lock()
        program = [sys.executable, "-m", "tests.lan.programs.switch", str(seed)]
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
            # A Ctrl-C is for the test; the switch ends when the lab closes it.
            start_new_session=True,
        )

    def attach(self, port: str, namespace: str, interface: str) -> None:
        """See Switch."""
        self._ask("attach", port=port, namespace=namespace, interface=interface)
        self.ports.append(port)
        ip("-n", namespace, "link", "set", interface, "up")

    def unplug(self, port: str) -> None:
        """See Switch."""
        self._ask("plug", port=port, plugged=False)

    def plug(self, port: str) -> None:
        """See Switch."""
        self._ask("plug", port=port, plugged=True)

    def set_line(self, line: Line, sources: Iterable[str] | None = None, targets: Iterable[str] | None = None) -> None:
        """The state of all wires from `sources` to `targets`, one way; None: all ports."""
        between = {"sources": list(sources or self.ports), "targets": list(targets or self.ports)}
        self._ask("line", **between, line=dataclasses.asdict(line))

    def partition(self, one: Iterable[str], other: Iterable[str]) -> None:
        """No frame passes between the two sides; carriers stay."""
        one, other = list(one), list(other)
        self.set_line(Line(cut=True), one, other)
        self.set_line(Line(cut=True), other, one)

    def heal(self) -> None:
        """All wires perfect again; what is unplugged stays so."""
        self.set_line(Line())

    def counts(self) -> dict[str, int]:
        """What became of frames, over all wires, since the start."""
        total: dict[str, int] = {}
        for wire in self._ask("counts")["wires"].values():
            for what, count in wire.items():
                total[what] = total.get(what, 0) + count
        return total

    def wire_counts(self, source: str, target: str) -> dict[str, int]:
        """Of one directed pair."""
        found: dict[str, int] = self._ask("counts")["wires"][f"{source}>{target}"]
        return found

    def close(self) -> None:
        """See Switch."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(TOOL_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        with self._lock:
            try:
                stdin.write(json.dumps({"command": command, **arguments}) + "\n")
                stdin.flush()
                line = stdout.readline()
            except OSError as error:
                raise SwitchFailed(f"{command}: {error}") from error
        if not line:
            raise SwitchFailed(f"{command}: the switch ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

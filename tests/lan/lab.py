"""A LAN on one machine: each host a network namespace, joined by a switch in a namespace of its own.

    with Lab(3) as lab:
        lab.hosts[0].popen([...])
        lab.hosts[1].unplug()

Nothing is left behind: processes die with the test process, namespaces carry its pid in their names, and those of
dead pids are swept when the next lab starts. Needs root. Not here: what runs on the hosts (programs/).
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from tests.lan.shell import TOOL_TIMEOUT_S, ToolError, ip, tool
from tests.lan.switch import BridgeSwitch, Switch

HOSTS_MAX = 32
INTERFACE = "eth0"
SUBNET = "10.77.0"
_NAMES = re.compile(r"^covey-(\d+)-\d+-\w+")
_lab_numbers = itertools.count()


def missing_requirement() -> str | None:
    """Why no lab can be made here, for a skip; None if one can."""
    if os.geteuid() != 0:
        return "needs root, to make network namespaces"
    for name in ("ip", "nft", "unshare", "setpriv", "nsenter"):
        if shutil.which(name) is None:
            return f"needs `{name}` (make setup installs the Debian packages)"
    probe = f"covey-{os.getpid()}-0-probe"
    try:
        ip("netns", "add", probe)
    except ToolError as error:
        return f"cannot make network namespaces here: {error}"
    ip("netns", "del", probe, check=False)
    return None


def sweep() -> list[str]:
    """Remove the namespaces of labs whose process is gone, with what still runs in them; returns their names."""
    swept = []
    for line in ip("netns", "list", check=False).splitlines():
        match = _NAMES.match(line)
        if match and not Path(f"/proc/{match[1]}").exists():
            name = line.split()[0]
            remove_namespace(name)
            swept.append(name)
    return swept


def remove_namespace(name: str) -> None:
    """End what runs inside (only a lab's own processes can) and delete it."""
    for pid in ip("netns", "pids", name, check=False).split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    ip("netns", "del", name, check=False)


class Host:
    """One machine of the lab. `name` is its host name, `address` the IPv4 address it was given (None: none yet)."""

    def __init__(self, name: str, namespace: str, switch: Switch, port: str) -> None:
        self.name = name
        self.namespace = namespace
        self.address: str | None = None
        self._switch = switch
        self._port = port
        self._processes: list[subprocess.Popen[Any]] = []
        ip("netns", "add", namespace)
        ip("-n", namespace, "link", "set", "lo", "up")
        switch.attach(port, namespace, INTERFACE)

    def add_address(self, address: str, prefix_length: int = 24) -> None:
        """Give the interface an address; the first IPv4 one becomes `self.address`."""
        nodad = ("nodad",) if ":" in address else ()
        ip("-n", self.namespace, "addr", "add", f"{address}/{prefix_length}", "dev", INTERFACE, *nodad)
        if ":" not in address:
            self.address = self.address or address

    def remove_address(self, address: str, prefix_length: int = 24) -> None:
        """Take it away again."""
        ip("-n", self.namespace, "addr", "del", f"{address}/{prefix_length}", "dev", INTERFACE)
        if self.address == address:
            self.address = None

    def change_address(self, address: str) -> None:
        """Another IPv4 address instead of `self.address`. In this order: Linux drops later ones with the first."""
        assert self.address is not None
        self.remove_address(self.address)
        self.add_address(address)

    def unplug(self) -> None:
        """Pull the network cable."""
        self._switch.unplug(self._port)

    def plug(self) -> None:
        """Put it back."""
        self._switch.plug(self._port)

    def block_inbound(self, udp_port: int) -> None:
        """A firewall that drops what comes in on one UDP port; what goes out still goes."""
        self.drop("input", f"udp dport {udp_port}")

    def block_outbound(self, udp_port: int) -> None:
        """A firewall that refuses to send to one UDP port."""
        self.drop("output", f"udp dport {udp_port}")

    def drop(self, hook: str, match: str) -> None:
        """A firewall that drops what matches an nftables expression, on its way "input" or "output"."""
        rules = [
            "add table inet lab",
            f"add chain inet lab {hook} {{ type filter hook {hook} priority 0; }}",
            f"add rule inet lab {hook} {match} drop",
        ]
        tool("ip", "netns", "exec", self.namespace, "nft", "-f", "-", stdin="\n".join(rules) + "\n")

    def unblock(self) -> None:
        """Remove the firewall."""
        tool("ip", "netns", "exec", self.namespace, "nft", "delete", "table", "inet", "lab", check=False)

    def command(self, argv: Sequence[str]) -> list[str]:
        """`argv` wrapped so that it runs on this host, under its host name, and dies with this process."""
        named = ["sh", "-c", 'hostname "$0" && exec "$@"', self.name, *argv]
        return ["ip", "netns", "exec", self.namespace, "setpriv", "--pdeathsig", "KILL", "unshare", "--uts", *named]

    def run(
        self, argv: Sequence[str], timeout_s: float = TOOL_TIMEOUT_S, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end on this host; never raises for its exit status."""
        command = self.command(argv)
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, env=_env(env), check=False)

    def popen(
        self,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        stdin: int | IO[Any] | None = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = subprocess.PIPE,
        stderr: int | IO[Any] | None = None,
        cwd: str | Path | None = None,
    ) -> subprocess.Popen[str]:
        """Start on this host; killed at the latest when the lab closes."""
        process = subprocess.Popen(
            self.command(argv), env=_env(env), stdin=stdin, stdout=stdout, stderr=stderr, cwd=cwd, text=True
        )
        self._processes.append(process)
        return process

    def close(self) -> None:
        """Kill what was started here and remove the namespace."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
        for process in self._processes:
            process.wait(timeout=TOOL_TIMEOUT_S)
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
        self._processes.clear()
        remove_namespace(self.namespace)


class Lab:
    """`hosts` machines h1, h2, ... at 10.77.0.1, 10.77.0.2, ... on one LAN, from `__enter__` to `__exit__`."""

    def __init__(self, hosts: int, *, addresses: bool = True, make_switch: Callable[[], Switch] | None = None) -> None:
        """With `addresses` False the hosts start without any IPv4 address. Without `make_switch`: a plain bridge."""
        assert 0 < hosts <= HOSTS_MAX, f"a lab has 1 to {HOSTS_MAX} hosts"
        self._count = hosts
        self._addresses = addresses
        self._make_switch = make_switch
        self.hosts: list[Host] = []
        self._switch: Switch | None = None

    def __enter__(self) -> Lab:
        sweep()
        atexit.register(self.close)
        prefix = f"covey-{os.getpid()}-{next(_lab_numbers)}"
        try:
            self._switch = self._make_switch() if self._make_switch else BridgeSwitch(f"{prefix}-switch")
            for number in range(1, self._count + 1):
                host = Host(f"h{number}", f"{prefix}-h{number}", self._switch, f"port{number}")
                self.hosts.append(host)
                if self._addresses:
                    host.add_address(f"{SUBNET}.{number}")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove everything. Safe to call twice."""
        while self.hosts:
            self.hosts.pop().close()
        if self._switch is not None:
            self._switch.close()
            self._switch = None
        atexit.unregister(self.close)


def _env(extra: Mapping[str, str] | None) -> dict[str, str] | None:
    return None if extra is None else {**os.environ, **extra}

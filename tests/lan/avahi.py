"""avahi on one host of a lab, with a message bus of its own: mDNS as another vendor's program sees it."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.lan.lab import INTERFACE, Host

START_TIMEOUT_S = 10.0

_BUS_CONFIGURATION = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow receive_sender="*"/>
    <allow own="*"/>
    <allow user="*"/>
  </policy>
</busconfig>
"""

_AVAHI_CONFIGURATION = f"""[server]
use-ipv4=yes
use-ipv6=no
allow-interfaces={INTERFACE}
disallow-other-stacks=no
ratelimit-interval-usec=1000000
ratelimit-burst=1000
[publish]
publish-addresses=yes
publish-hinfo=no
publish-workstation=no
"""


def missing_requirement() -> str | None:
    """Why avahi cannot run here, for a skip."""
    for name in ("avahi-daemon", "avahi-browse", "avahi-resolve", "dbus-daemon"):
        if shutil.which(name) is None:
            return f"needs `{name}` (make setup installs the Debian packages)"
    return None


def resolves_for_everybody() -> bool:
    """True where ordinary programs resolve .local names through avahi (Debian's libnss-mdns)."""
    try:
        return "mdns" in Path("/etc/nsswitch.conf").read_text()
    except OSError:
        return False


@dataclass(frozen=True)
class Browsed:
    """One resolved service as avahi-browse -rpt prints it."""

    instance: str
    host: str
    address: str
    port: int
    txt: dict[str, str]


class Avahi:
    """A running avahi-daemon on `host`; stopped with the host."""

    def __init__(self, host: Host, folder: Path) -> None:
        self._host = host
        bus_socket = folder / f"{host.name}-bus"
        self._environment = {"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={bus_socket}"}
        self._log = folder / f"{host.name}-avahi.log"
        bus, configuration = folder / f"{host.name}-bus.conf", folder / f"{host.name}-avahi.conf"
        bus.write_text(_BUS_CONFIGURATION.format(socket=bus_socket))
        configuration.write_text(_AVAHI_CONFIGURATION)
        host.popen(
            ["dbus-daemon", f"--config-file={bus}", "--nofork"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        _wait_until(bus_socket.exists)
        # Its pid file and its socket for the name service switch have fixed paths: one private /run per host.
        script = 'mkdir -p /run/avahi-daemon && mount -t tmpfs tmpfs /run/avahi-daemon && exec "$0" "$@"'
        daemon = ["avahi-daemon", "--no-drop-root", "--no-chroot", "--no-rlimits", "-f", str(configuration)]
        with self._log.open("w") as log:
            self.process = host.popen(
                ["sh", "-c", script, *daemon], env=self._environment, stdout=log, stderr=subprocess.STDOUT
            )
        _wait_until(lambda: "Server startup complete" in self._log.read_text())

    def browse(self, service_type: str = "_covey._tcp") -> list[Browsed]:
        """Everything that `avahi-browse -rpt` resolves now."""
        done = self._run("avahi-browse", "-rpt", service_type)
        return [_parse(line) for line in done.stdout.splitlines() if line.startswith("=")]

    def resolve(self, host: str) -> str | None:
        """The IPv4 address that `avahi-resolve` gives; None when it gives up. It always gives one only."""
        done = self._run("avahi-resolve", "-4", "-n", host)
        return done.stdout.split()[1] if done.returncode == 0 and done.stdout.strip() else None

    def getent(self, host: str) -> set[str]:
        """What an ordinary program resolves: getaddrinfo through the name service switch (libnss-mdns) and avahi."""
        inside = ["nsenter", "--target", str(self.process.pid), "--mount", "--net", "getent", "ahostsv4", host]
        done = subprocess.run(inside, capture_output=True, text=True, timeout=15, check=False)
        return {line.split()[0] for line in done.stdout.splitlines()}

    def cached_addresses(self, host: str) -> set[str]:
        """All IPv4 addresses of a name in avahi's cache, from the dump that it writes on SIGUSR1."""
        before = len(self._log.read_text())
        self.process.send_signal(signal.SIGUSR1)
        _wait_until(lambda: self._quiet(before))
        pattern = re.compile(rf"\b{re.escape(host)}\s+IN\s+A\s+([0-9.]+)")
        dump = self._log.read_text()[before:]
        return set(pattern.findall(dump[dump.find("CACHE") :]))

    def _quiet(self, before: int) -> bool:
        """True when the dump has begun and nothing was added for a while (it has no last line of its own)."""
        length = len(self._log.read_text())
        time.sleep(0.2)
        return before < length == len(self._log.read_text())

    def _run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return self._host.run(argv, timeout_s=15.0, env=self._environment)


def _parse(line: str) -> Browsed:
    _, _, _, instance, _, _, host, address, port, text = line.split(";", 9)
    txt = dict(entry.split("=", 1) for entry in re.findall(r'"([^"]*)"', text))
    return Browsed(instance, host, address, int(port), txt)


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, "avahi or its message bus did not start"
        time.sleep(0.05)

"""A real etcd cluster of three processes on loopback, whose members can be killed and started again."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import tempfile
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.support.polling import wait_until

from covey.demo.ports import choose

MEMBERS = 3

needs_etcd = [
    pytest.mark.etcd,
    pytest.mark.skipif(shutil.which("etcd") is None, reason="etcd is not installed (Debian: etcd-server)"),
]


class EtcdMember:
    """One process; its data survives it. `tls` are further flags."""

    def __init__(self, name: str, client: str, peer: str, directory: Path, tls: Sequence[str] = ()) -> None:
        self.name = name
        self.client = client
        self.peer = peer
        self._directory = directory
        self._tls = list(tls)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, cluster: str) -> None:
        client = f"https://{self.client}" if self._tls else f"http://{self.client}"
        peer = f"http://{self.peer}"
        flags = {
            "name": self.name,
            "data-dir": str(self._directory),
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": cluster,
            "logger": "zap",
            "log-level": "error",
        }
        command = ["etcd", *(f"--{flag}={value}" for flag, value in flags.items()), *self._tls]
        with self._directory.with_suffix(".log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    @property
    def running(self) -> bool:
        return self._process is not None

    def kill(self) -> None:
        """As a power cut would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def status(self) -> dict[str, object]:
        """Its gateway's answer; empty while it has none. Not over TLS."""
        request = urllib.request.Request(f"http://{self.client}/v3/maintenance/status", b"{}")
        try:
            with urllib.request.urlopen(request, timeout=1.0) as answer:
                found: dict[str, object] = json.load(answer)
        except OSError:
            return {}
        return found


class EtcdCluster:
    """Use as a context manager: started on entering, gone without trace on leaving."""

    def __init__(self, members: int = MEMBERS, tls: Sequence[str] = ()) -> None:
        shared = Path("/dev/shm")
        self._root = Path(tempfile.mkdtemp(prefix="covey-etcd-", dir=shared if shared.is_dir() else None))
        ports = choose(tuple((0, 0, 0, 0) for _ in range(members)))
        self.members = [
            EtcdMember(f"m{n}", where.http, where.link, self._root / f"m{n}", tls) for n, where in enumerate(ports)
        ]
        self._initial = ",".join(f"{one.name}=http://{one.peer}" for one in self.members)

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(member.client for member in self.members)

    def __enter__(self) -> EtcdCluster:
        for member in self.members:
            member.start(self._initial)
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.members:
            member.kill()
        shutil.rmtree(self._root)

    def start(self, member: EtcdMember) -> None:
        """Again, on its old data."""
        member.start(self._initial)

    def start_all(self) -> None:
        """Those that do not run."""
        for member in self.members:
            if not member.running:
                self.start(member)

    def leader(self) -> EtcdMember:
        """The member that leads the others."""

        def found() -> EtcdMember | None:
            for member in (one for one in self.members if one.running):
                status = member.status()
                header = status.get("header")
                if isinstance(header, dict) and status.get("leader") == header.get("member_id"):
                    return member
            return None

        leading = wait_until(found, "an etcd member leads")
        assert leading is not None
        return leading

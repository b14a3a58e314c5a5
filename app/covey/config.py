"""Every setting of an agent, in one frozen value with its unit in its name and its meaning beside it.

Not here: where values come from (settings.py) and how one value is read (setting.py). docs/configuration.md lists the
same settings; tests/unit/test_config.py compares the two.
"""

# ruff: noqa: RUF009 (setting() makes a dataclass field, like dataclasses.field)

from __future__ import annotations

import dataclasses
import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from covey import setting as read
from covey.errors import ConfigurationError
from covey.places import CONTROL_SOCKET, check_socket_room
from covey.setting import setting
from covey_gateway.core.process_ids import PROCESSES_MAX
from covey_gateway.core.sharing import CLASSES
from covey_scheduler.core.policies import POLICIES

VLLM = "vllm"
SIMULATED = "simulated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """Validated: each value by its reader, their combinations by `check`."""

    # --- This machine
    state_dir: Path = setting(Path(), read.path, "Keys, certificates, ballot and known peers; survives restarts.")
    runtime_dir: Path = setting(Path(), read.path, "Unix sockets of the agent and its engines; keep the path short.")
    name: str = setting(socket.gethostname, read.text, "Display name of this machine.")

    # --- Models and their engines
    models: tuple[str, ...] = setting(
        (), read.words, "Models to serve: a local Hugging Face directory, NAME=DIRECTORY, `demo` or `demo-embed`."
    )
    engine: str = setting(
        VLLM, read.one_of(VLLM, SIMULATED), "What runs them: `vllm`, or `simulated` (no model, made-up words)."
    )
    engine_arguments: tuple[str, ...] = setting(
        (), read.arguments, "Further arguments for every `vllm serve`, passed through untouched."
    )
    context_tokens_max: int = setting(0, read.count, "Longest context to serve, in tokens; 0: what the model allows.")
    running_requests_max: int = setting(0, read.count, "Requests an engine runs at once; 0: what it reports.")
    kv_cache_bytes: int = setting(
        0, read.size_bytes, "KV cache of each engine (`512M`, `4G`); 0: the engine decides, on a CPU a modest share."
    )
    gpu_memory_utilization: float = setting(
        0.9, read.quantity, "Share of a GPU's memory that an engine may take, 0.05 to 1."
    )
    device: str = setting(
        "auto", read.one_of("auto", "cuda", "cpu"), "`auto`: CUDA where there is a GPU, else the CPU."
    )
    cpu_threads: int = setting(0, read.count, "Threads of each engine on the CPU; 0: half of the processors.")
    engine_start_timeout_s: float = setting(
        3600.0, read.quantity, "Longest load of a model before it counts as failed."
    )
    calibration_s: float = setting(
        3.0, read.quantity, "A model just loaded measures itself for so long, unless a request comes first; 0: never."
    )
    simulated_prefill_tokens_per_s: float = setting(5000.0, read.quantity, "Simulated engine: prompt speed.")
    simulated_decode_tokens_per_s: float = setting(200.0, read.quantity, "Simulated engine: speed of one stream.")

    # --- Addresses
    http: str = setting("127.0.0.1:8080", read.address, "OpenAI-compatible endpoint, HOST:PORT.")
    gateway_processes: int = setting(
        1, read.count, "Processes that answer on `http`; more than 1 where one processor core is not enough."
    )
    grpc: str = setting("127.0.0.1:8081", read.address, "gRPC endpoint, HOST:PORT.")
    link: str = setting(
        "0.0.0.0:8082", read.address, "Where machines of the pool connect (mutual TLS always), HOST:PORT."
    )
    data_port: int = setting(
        8084,
        read.port,
        "TCP port for answers between machines, on `link`'s address (mutual TLS; any where taken); 0: over `link`.",
    )
    enrol: str = setting(
        "0.0.0.0:8083", read.address, "Where `covey join` is answered, only while an invitation is open, HOST:PORT."
    )
    advertise: tuple[str, ...] = setting(
        (), read.words, "Hosts under which others should dial this machine instead of those found, best first."
    )
    keys: Mapping[str, str] = setting(
        dict,
        read.table,
        "API keys, owner = key or `sha256:` and its digest. Needed where `http` or `grpc` is not loopback.",
    )
    key_priorities: Mapping[str, str] = setting(
        dict,
        read.table,
        "Best class that a key's requests may have, owner = `interactive`, `normal` or `batch`; others: interactive.",
    )
    key_on_loopback: bool = setting(False, read.switch, "Ask clients on this machine for a key, too.")
    cors_origins: tuple[str, ...] = setting(
        (), read.words, "Origins of browser applications that may call (`https://app.example`); `*`: any."
    )
    trusted_hosts: tuple[str, ...] = setting(
        (), read.words, "Host names, beside this machine's own, under which the keyless endpoint answers."
    )

    # --- Finding the others
    mdns: bool = setting(True, read.switch, "Announce and look for machines of the pool with multicast DNS.")
    peers: tuple[str, ...] = setting(
        (), read.addresses, "Machines to dial even if mDNS does not show them, HOST:PORT of their `link`."
    )

    # --- Leadership in etcd
    etcd_endpoints: tuple[str, ...] = setting(
        (),
        read.addresses,
        "Members of an etcd cluster that says who may lead, HOST:PORT; none: the pool's own election.",
    )
    etcd_ca: Path | None = setting(None, read.path, "PEM file of the CA of etcd's members; with it TLS is used.")
    etcd_certificate: Path | None = setting(None, read.path, "PEM file of the certificate to show to etcd.")
    etcd_key: Path | None = setting(None, read.path, "PEM file of that certificate's key.")

    # --- Files and batches
    batch_storage_bytes: int = setting(
        20 * 2**30, read.size_bytes, "Disk that files and answers of batches may take on this machine (`20G`)."
    )
    batch_file_bytes: int = setting(200 * 2**20, read.size_bytes, "Largest file that may be uploaded (`200M`).")
    batch_keep_days: float = setting(
        30.0, read.quantity, "Days until files of batches and their results are deleted, unless the client says when."
    )

    # --- Behaviour
    policy: str = setting(
        "predicted", read.one_of(*POLICIES), "How the leader chooses a machine; `predicted` unless comparing."
    )
    shard_requests: bool = setting(
        True, read.switch, "Cut requests with many inputs, prompts or choices over the machines of the pool."
    )
    shard_inputs_min: int = setting(
        32, read.count, "Embedding requests with fewer inputs go to one machine whole; at least 2."
    )
    grace_s: float = setting(30.0, read.quantity, "How long requests in flight may take to finish when stopping.")
    log_level: str = setting(
        "warning", read.one_of("debug", "info", "warning", "error"), "Least important message to log."
    )
    log_format: str = setting(
        "auto", read.one_of("auto", "human", "json"), "`auto`: human on a terminal, JSON lines otherwise."
    )

    @property
    def control_socket(self) -> Path:
        """Where `covey ps` and the other commands reach the agent of this machine."""
        return self.runtime_dir / CONTROL_SOCKET

    def check(self) -> None:
        """Raise ConfigurationError for values that do not go together."""
        check_socket_room(self.runtime_dir)
        if self.shard_inputs_min < 2:
            raise ConfigurationError("shard_inputs_min must be at least 2", "set shard_requests = false to cut nothing")
        if not 1 <= self.gateway_processes <= PROCESSES_MAX:
            raise ConfigurationError(
                f"gateway_processes is {self.gateway_processes}", f"1 to {PROCESSES_MAX}; 1 is the agent alone"
            )
        self._check_etcd()
        self._check_key_priorities()
        self._check_batches()
        for name in ("http", "grpc"):
            if not self.keys and not is_loopback(getattr(self, name)):
                raise ConfigurationError(
                    f"{name} = {getattr(self, name)} is open to the network, and no API key is configured",
                    'add to covey.toml:  [keys]  then a line such as  alice = "a long random text"',
                )
        for owner, key in self.keys.items():
            if len(key) < KEY_LENGTH_MIN and not key.startswith(DIGEST_PREFIX):
                raise ConfigurationError(
                    f"the key of {owner} is shorter than {KEY_LENGTH_MIN} characters",
                    "make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(24))'",
                )

    def _check_batches(self) -> None:
        for name in ("batch_storage_bytes", "batch_file_bytes", "batch_keep_days"):
            if not getattr(self, name):
                raise ConfigurationError(f"{name} must be above 0", "leave it out for the usual value")

    def _check_key_priorities(self) -> None:
        for owner, word in self.key_priorities.items():
            if word not in CLASSES:
                raise ConfigurationError(f"key_priorities of {owner} is {word!r}", f"write one of {', '.join(CLASSES)}")
            if owner not in self.keys:
                raise ConfigurationError(f"key_priorities names {owner}, who has no key", "add the key, or remove it")

    def _check_etcd(self) -> None:
        certified = self.etcd_certificate is not None
        if certified != (self.etcd_key is not None):
            raise ConfigurationError("etcd_certificate and etcd_key go together", "set both, or neither")
        if (certified or self.etcd_ca is not None) and not self.etcd_endpoints:
            raise ConfigurationError(
                "files for TLS to etcd are set, and no etcd", "set etcd_endpoints, or remove etcd_ca and the others"
            )
        if certified and self.etcd_ca is None:
            raise ConfigurationError(
                "etcd_certificate is set without etcd_ca: it would be shown to nobody",
                "set etcd_ca to the CA that signed the certificates of etcd's members",
            )


KEY_LENGTH_MIN = 16
DIGEST_PREFIX = "sha256:"


def is_loopback(address: str) -> bool:
    """True if HOST:PORT can be reached from this machine only."""
    host, _ = read.split_address(address)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def fields() -> dict[str, dataclasses.Field[object]]:
    """Every setting by name, in the order of the dataclass."""
    return {field.name: field for field in dataclasses.fields(Configuration)}

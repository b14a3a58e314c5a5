"""The `vllm serve` command line and environment for one model: pure functions, every flag with its reason.

Not here: starting it (covey_node.io.vllm).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from covey_mesh.core.facts import Task
from covey_node.core.settings import ModelSpec

RUNNING_LIMIT_DEFAULT = 256
SHUTDOWN_TIMEOUT_S = 30
KEEP_ALIVE_S = 3600
"""vLLM closes an idle connection after this long; its default of 5 s would race with our next request on it."""

PLUGIN_NAME = "covey_engine_process"
CPU_KV_CACHE_BYTES_MAX = 512 * 1024**2
CPU_KV_CACHE_BYTES_MIN = 64 * 1024**2
CPU_KV_CACHE_SHARE = 32

UNSET_VARIABLES = (
    "VLLM_CPU_KVCACHE_SPACE",  # overrides --kv-cache-memory-bytes
    "VLLM_API_KEY",  # the engine would refuse us
    "VLLM_PORT",
    "VLLM_USE_MODELSCOPE",
    "VLLM_DEBUG_LOG_API_SERVER_RESPONSE",  # writes prompts and answers to the log
)

OWN_PREFIX = "COVEY_"
"""Settings of the agent, API keys among them: no business of an engine, nor of code that a model brings along."""


@dataclass(frozen=True, slots=True)
class Host:
    """What the command depends on besides the model. `device` is "cuda" or "cpu"."""

    device: str
    cpu_threads: int
    memory_available_bytes: int


def arguments(
    spec: ModelSpec, card_args: Sequence[str], socket_path: str, host: Host, cache_events: str = ""
) -> list[str]:
    """What follows `vllm`. Later flags win: covey's own, then the model's covey.json, then the configuration.

    `cache_events`: the ZeroMQ endpoint that the engine shall tell of its KV cache; empty: none.
    """
    args = ["serve", spec.path, "--served-model-name", spec.name, "--uds", socket_path]
    args += ["--shutdown-timeout", str(SHUTDOWN_TIMEOUT_S)]
    args += ["--disable-uvicorn-access-log"]  # a line a request
    args += ["--max-num-seqs", str(spec.running_limit or RUNNING_LIMIT_DEFAULT)]  # admission must know it
    if spec.task is Task.EMBED:
        args += ["--runner", "pooling"]
    else:
        args += ["--max-model-len", str(spec.max_context_tokens or "auto")]  # auto: what fits, at most the model's own
        args += ["--enable-prompt-tokens-details"]  # what of a prompt was cached: no work, and no sign of speed
        if cache_events:
            args += ["--kv-events-config", _cache_events(cache_events)]
    args += _cuda(spec) if host.device == "cuda" else _cpu(spec, host)
    return [*args, *card_args, *spec.extra_args]


def _cache_events(endpoint: str) -> str:
    return json.dumps({"enable_kv_cache_events": True, "publisher": "zmq", "endpoint": endpoint, "topic": ""})


def _cuda(spec: ModelSpec) -> list[str]:
    if spec.kv_cache_bytes is not None:
        return ["--kv-cache-memory-bytes", str(spec.kv_cache_bytes)]
    return ["--gpu-memory-utilization", str(spec.gpu_memory_utilization)]


def _cpu(spec: ModelSpec, host: Host) -> list[str]:
    """bfloat16 halves the memory traffic that bounds decoding; embeddings stay exact. Eager: nothing to compile."""
    dtype = "float32" if spec.task is Task.EMBED else "bfloat16"
    kv_bytes = spec.kv_cache_bytes or cpu_kv_cache_bytes(host.memory_available_bytes)
    return ["--dtype", dtype, "--enforce-eager", "--kv-cache-memory-bytes", str(kv_bytes)]


def cpu_kv_cache_bytes(memory_available_bytes: int) -> int:
    """A 32nd of the free memory, between 64 and 512 MiB: a CPU is out of breath long before it is full."""
    share = memory_available_bytes // CPU_KV_CACHE_SHARE
    return min(CPU_KV_CACHE_BYTES_MAX, max(CPU_KV_CACHE_BYTES_MIN, share))


def environment(inherited: Mapping[str, str], host: Host, agent_pid: int, token: str) -> dict[str, str]:
    """The engine's environment: this process's, with what covey needs and without what would break it."""
    env = {n: value for n, value in inherited.items() if n not in UNSET_VARIABLES and not n.startswith(OWN_PREFIX)}
    env |= {
        "COVEY_ENGINE_PARENT_PID": str(agent_pid),
        "COVEY_ENGINE_TOKEN": token,
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "PYTHONUNBUFFERED": "1",
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": str(KEEP_ALIVE_S),
        "VLLM_HOST_IP": "127.0.0.1",  # its process groups must not listen on the network
        "GLOO_SOCKET_IFNAME": "lo",
        "VLLM_WORKER_MULTIPROCESSING_METHOD": "spawn",  # a forked process would skip covey's plugin
    }
    if "VLLM_PLUGINS" in env:
        env["VLLM_PLUGINS"] += f",{PLUGIN_NAME}"
    if host.device == "cpu":
        env |= {
            "OMP_NUM_THREADS": str(host.cpu_threads),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # two engines would be bound to the same cores
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the core computes itself: one process less
        }
    return env


def last_value(args: Sequence[str], flag: str) -> str | None:
    """The value that argparse will take for `flag` ("--flag value" or "--flag=value"); None if absent."""
    found = None
    for position, word in enumerate(args):
        if word == flag and position + 1 < len(args):
            found = args[position + 1]
        elif word.startswith(flag + "="):
            found = word[len(flag) + 1 :]
    return found

import json

import pytest

from covey_mesh.core.facts import Task
from covey_node.core.settings import ModelSpec, NodeSettings, SettingsError
from covey_node.core.start_progress import TAIL_LINES_MAX, Tail, cause, phase
from covey_node.core.vllm_command import Host, arguments, cpu_kv_cache_bytes, environment, last_value

CPU = Host("cpu", 2, 8 * 1024**3)
CUDA = Host("cuda", 2, 8 * 1024**3)


def spec(**fields: object) -> ModelSpec:
    return ModelSpec(**({"name": "m", "path": "/models/m", "task": Task.GENERATE} | fields)).validated()  # type: ignore[arg-type]


def test_cpu_flags() -> None:
    args = arguments(spec(kv_cache_bytes=64), (), "/run/s.sock", CPU)
    assert args[:4] == ["serve", "/models/m", "--served-model-name", "m"]
    assert last_value(args, "--uds") == "/run/s.sock"
    assert last_value(args, "--dtype") == "bfloat16"
    assert last_value(args, "--kv-cache-memory-bytes") == "64"
    assert last_value(args, "--max-model-len") == "auto"
    assert "--enforce-eager" in args
    assert "--host" not in args
    assert "--port" not in args


def test_cuda_flags_leave_vllm_its_own_choice() -> None:
    args = arguments(spec(gpu_memory_utilization=0.8), (), "/run/s.sock", CUDA)
    assert last_value(args, "--gpu-memory-utilization") == "0.8"
    assert "--enforce-eager" not in args
    assert "--dtype" not in args
    assert last_value(arguments(spec(kv_cache_bytes=5), (), "s", CUDA), "--kv-cache-memory-bytes") == "5"


def test_the_cache_is_told_of_on_a_unix_socket_only() -> None:
    args = arguments(spec(), (), "/run/s.sock", CPU, "ipc:///run/s.kv")
    told = json.loads(last_value(args, "--kv-events-config") or "")
    assert (told["endpoint"], told["publisher"]) == ("ipc:///run/s.kv", "zmq")
    assert "--kv-events-config" not in arguments(spec(), (), "/run/s.sock", CPU)
    assert "--kv-events-config" not in arguments(spec(task=Task.EMBED), (), "/run/s.sock", CPU, "ipc:///run/s.kv")
    assert "--enable-prompt-tokens-details" in args


def test_embedding_flags() -> None:
    args = arguments(spec(task=Task.EMBED), (), "/run/s.sock", CPU)
    assert last_value(args, "--runner") == "pooling"
    assert last_value(args, "--max-model-len") is None


def test_later_flags_win() -> None:
    chosen = spec(extra_args=("--max-num-seqs", "3"), running_limit=9)
    args = arguments(chosen, ("--max-num-seqs=5",), "/run/s.sock", CPU)
    assert last_value(args, "--max-num-seqs") == "3"
    assert last_value(arguments(spec(), ("--max-num-seqs=5",), "s", CPU), "--max-num-seqs") == "5"


def test_environment_keeps_the_engine_private_and_alive_with_us() -> None:
    inherited = {"PATH": "/bin", "VLLM_CPU_KVCACHE_SPACE": "4", "VLLM_API_KEY": "secret", "VLLM_PLUGINS": "mine"}
    secrets = {"COVEY_KEYS": "ada=secret", "COVEY_API_KEY": "secret", "VLLM_DEBUG_LOG_API_SERVER_RESPONSE": "secret"}
    env = environment(inherited, CPU, 77, "token")
    assert env["PATH"] == "/bin"
    assert env["COVEY_ENGINE_PARENT_PID"] == "77"
    assert env["HF_HUB_OFFLINE"] == env["VLLM_NO_USAGE_STATS"] == env["DO_NOT_TRACK"] == "1"
    assert env["OMP_NUM_THREADS"] == "2"
    assert env["VLLM_PLUGINS"] == "mine,covey_engine_process"
    assert not {"VLLM_CPU_KVCACHE_SPACE", "VLLM_API_KEY"} & env.keys()
    assert not [name for name, value in environment(secrets, CPU, 77, "token").items() if "secret" in value]
    assert "OMP_NUM_THREADS" not in environment({}, CUDA, 77, "token")
    assert "VLLM_PLUGINS" not in environment({}, CUDA, 77, "token")


@pytest.mark.parametrize(("free_gib", "expected_mib"), [(0.5, 64), (4, 128), (16, 512), (512, 512)])
def test_kv_cache_on_a_cpu(free_gib: float, expected_mib: int) -> None:
    assert cpu_kv_cache_bytes(int(free_gib * 1024**3)) == expected_mib * 1024**2


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"name": "a b"},
        {"engine": "other"},
        {"path": ""},
        {"kv_cache_bytes": 0},
        {"running_limit": -1},
        {"gpu_memory_utilization": 1.5},
    ],
)
def test_bad_model_settings(fields: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        spec(**fields)


@pytest.mark.parametrize("fields", [{"device": "tpu"}, {"cpu_threads": 0}, {"gpu_poll_s": 0.0}, {"stop_grace_s": -1.0}])
def test_bad_node_settings(fields: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        NodeSettings(**fields).validated()  # type: ignore[arg-type]


def test_two_models_of_one_name() -> None:
    with pytest.raises(SettingsError, match="two models are named m"):
        NodeSettings(models=(spec(), spec())).validated()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "(EngineCore pid=1) INFO [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: ...",
            "starting the engine",
        ),
        ("Loading safetensors checkpoint shards:  42% Completed | 3/7", "loading weights (42%)"),
        ("INFO [default_loader.py:501] Loading weights took 0.01 seconds", "weights loaded"),
        ("WARNING Enforce eager set, disabling torch.compile, CUDAGraphs", None),
        ("INFO [kv_cache_utils.py:2327] CPU KV cache size: 65,536 tokens", "warming up"),
        ("INFO:     Application startup complete.", "asking a first question"),
        ("anything else", None),
    ],
)
def test_phases(line: str, expected: str | None) -> None:
    assert phase(line) == expected


def test_tail_takes_any_pieces_and_is_bounded() -> None:
    tail = Tail()
    assert tail.feed(b"one\ntw") == ["one"]
    assert tail.feed(b"o\rthree\n") == ["two", "three"]
    tail.feed(b"".join(b"line %d\n" % n for n in range(5 * TAIL_LINES_MAX)))
    tail.feed(b"x" * 10_000_000)
    assert len(tail.last(10**6).splitlines()) == TAIL_LINES_MAX
    assert len(tail._rest) <= 2000


def test_cause_names_the_error() -> None:
    lines = ["(APIServer pid=5) Traceback", "(APIServer pid=5) ValueError: no such model", "INFO bye"]
    assert cause(lines) == "ValueError: no such model"
    assert cause(["one", "two"]) == "two"
    assert cause([]) == ""

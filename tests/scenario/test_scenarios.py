"""Golden scenarios: each file's events must produce exactly its trace. `--rewrite-scenarios` writes them anew."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.scenario.story import SEPARATOR, Story, read

FILES = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_scenario(path: Path, request: pytest.FixtureRequest) -> None:
    scenario = read(path)
    trace = Story(scenario).play()
    if request.config.getoption("--rewrite-scenarios"):
        path.write_text(f"{scenario.head}{SEPARATOR}\n{trace}")
        return
    assert trace == scenario.expected, "if the new trace is right, rewrite it with --rewrite-scenarios"


def test_there_are_scenarios() -> None:
    assert len(FILES) >= 10

"""README and CONTRIBUTING: every link leads somewhere, every make target and covey command named there exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from covey.cli.group import cli

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", "docs/cli.md", "docs/configuration.md", "shims/README.md")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if "://" not in target:
            assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"


@pytest.mark.parametrize("page", PAGES)
def test_paths_named_in_tables_exist(page: str) -> None:
    for path in re.findall(
        r"`((?:app|mesh|node|scheduler|gateway|tests|tools|proto|docs)/[\w./]+)`", (ROOT / page).read_text()
    ):
        assert (ROOT / path).exists(), f"{page} names {path}"


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_exist(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    text = (ROOT / page).read_text()
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", text, flags=re.MULTILINE))
    assert named <= targets, f"{page}: {named - targets}"


@pytest.mark.parametrize("page", PAGES)
def test_covey_commands_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    for name in re.findall(r"(?:^|`|&& )covey ([a-z]+)", text, flags=re.MULTILINE):
        assert name in cli.commands, f"{page}: covey {name}"


def test_the_readme_names_its_two_commands_first() -> None:
    text = (ROOT / "README.md").read_text()
    assert re.search(r"```sh\nmake run .*\nmake test .*\n```", text)

"""docs/ARCHITECTURE.md and the decision records point at files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs/ARCHITECTURE.md").read_text()
PREFIXES = (
    "mesh/",
    "node/",
    "scheduler/",
    "gateway/",
    "app/",
    "tests/",
    "tools/",
    "proto/",
    "docs/",
    "deploy/",
    "bench/",
)


def _named() -> set[str]:
    words = re.findall(r"[\w./*{},-]+", TEXT)
    return {w.rstrip(".,") for w in words if w.startswith(PREFIXES)}


def test_the_page_names_files() -> None:
    assert len(_named()) > 20


@pytest.mark.parametrize("name", sorted(_named()))
def test_every_file_named_exists(name: str) -> None:
    assert list(ROOT.glob(name)) or (ROOT / name).exists(), f"docs/ARCHITECTURE.md names {name}, which is not there"


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda p: str(p.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"

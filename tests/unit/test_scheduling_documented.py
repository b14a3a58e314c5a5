"""docs/scheduling.md names every filter and every term, and only files and settings that exist."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from covey_scheduler.core.filters import FILTERS
from covey_scheduler.core.policies import POLICIES
from covey_scheduler.core.prediction import TERMS
from covey_scheduler.core.settings import SchedulerSettings

ROOT = Path(__file__).parents[2]
CORE = ROOT / "scheduler/covey_scheduler/core"
TEXT = (ROOT / "docs/scheduling.md").read_text()
WORDS = re.findall(r"`([^`\n]+)`", TEXT)


def test_every_filter_and_term_has_its_row_in_order() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", TEXT, flags=re.MULTILINE)
    expected = [each.name for each in FILTERS] + [name for name, _ in TERMS] + ["decode"]
    assert rows == expected


def test_every_file_named_exists() -> None:
    files = [word for word in WORDS if word.endswith(".py") and " " not in word]
    assert len(files) > 10
    missing = [name for name in files if not ((CORE / name).exists() or (ROOT / name).exists())]
    assert not missing


def test_every_setting_named_exists() -> None:
    known = {item.name for item in fields(SchedulerSettings)}
    named = {word for word in WORDS if re.fullmatch(r"[a-z]+(_[a-z]+)+(_max|_min|_s)?", word)}
    filters = {each.name for each in FILTERS}
    functions = {"machine_to_start", "max_tokens"}
    assert len(named & known) > 10
    assert not named - known - filters - functions


def test_every_policy_is_named() -> None:
    section = TEXT.split("## Policies")[1].split("\n## ")[0]
    assert not [name for name in POLICIES if name not in section]

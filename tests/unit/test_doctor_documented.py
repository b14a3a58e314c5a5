"""Every finding of the doctor is in the table of docs/operations.md; the titles are read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCTOR = ROOT / "app/covey/doctor"
DOCUMENTED = (ROOT / "docs/operations.md").read_text().partition("## What covey doctor finds")[2].partition("\n## ")[0]

IN_CODE = {"machine ids", "machine names", "interface", "path MTU", "one-way", "latency", "bandwidth", "clock"}
"""Some that must be found, so that the reading itself is tested."""


def titles() -> Iterator[str]:
    """First words of every finding that needs a fix: up to the first name or number that is filled in."""
    for file in DOCTOR.glob("*.py"):
        tree = ast.parse(file.read_text())
        constants = {
            target.id: node.value.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and node.args and called(node) in ("warn", "fail", "worst", "_figures"):
                yield str(first_words(node.args[0], constants))


def called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else ""


def first_words(title: ast.expr, constants: dict[str, object]) -> object:
    if isinstance(title, ast.Name):
        return constants.get(title.id, "")
    if isinstance(title, ast.JoinedStr):
        title = title.values[0]
    return str(title.value).strip() if isinstance(title, ast.Constant) else ""


def test_every_finding_is_documented() -> None:
    found = {title for title in titles() if title}
    assert found >= IN_CODE
    assert sorted(title for title in found if f"`{title}" not in DOCUMENTED) == []

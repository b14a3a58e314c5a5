"""Plain prose for the models: the docstrings of this Python's standard library (licence: PSF, like Python itself).

Read from the source files with `ast`; no module is imported.
"""

from __future__ import annotations

import ast
import inspect
import sysconfig
from collections.abc import Iterator
from pathlib import Path

_SKIPPED_FOLDERS = frozenset({"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__"})
_LENGTH_MIN = 60
_LENGTH_MAX = 1200


def paragraphs(characters_max: int) -> list[str]:
    """Docstrings of 60 to 1,200 ASCII characters, each once, in the order of their files' names, up to the total."""
    chosen: list[str] = []
    seen: set[str] = set()
    total = 0
    for text in _docstrings():
        if text in seen or not text.isascii() or not _LENGTH_MIN <= len(text) <= _LENGTH_MAX:
            continue
        if ">>>" in text or sum(map(str.isalpha, text)) < 0.6 * len(text):
            continue
        seen.add(text)
        chosen.append(text)
        total += len(text)
        if total >= characters_max:
            break
    return chosen


def _docstrings() -> Iterator[str]:
    """All docstrings of the standard library's modules, classes and functions."""
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        if _SKIPPED_FOLDERS & set(path.parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (OSError, SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node)
                if text:
                    yield inspect.cleandoc(text)

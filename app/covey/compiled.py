"""Whether the hot modules run compiled: `make compile` builds them with mypyc into a folder of their own.

That folder holds a copy of the four packages with the compiled modules beside their sources, and a stamp: which sources
and which Python it was made from. `use` puts it first on the path of this process, if it was made from exactly the
sources that would run otherwise; so what was compiled never hides an edited file. Everything else runs as plain Python.

Not here: which modules are compiled, and how (tools/compile.py). Imports nothing of the packages concerned.
"""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import sys
from pathlib import Path

PACKAGES = {
    "covey_mesh": "mesh",
    "covey_node": "node",
    "covey_scheduler": "scheduler",
    "covey_gateway": "gateway",
}
"""The packages that have compiled modules, and their folders."""

ROOT = Path(__file__).resolve().parents[2]
"""Of a checkout. Where covey is installed from a wheel nothing is found there, and nothing is used."""

FOLDER = Path("build") / "compiled"
STAMP = "compiled.json"
SWITCH = "COVEY_COMPILED"
"""Set to 0 in the environment: plain Python whatever was built."""

PLAIN = "no, plain Python"


def digest(root: Path) -> str:
    """Of all sources of the packages, names and contents; empty where they are not there. Takes some 20 ms."""
    found = hashlib.sha256()
    for package, folder in PACKAGES.items():
        files = sorted((root / folder / package).rglob("*.py"))
        if not files:
            return ""
        for file in files:
            content = file.read_bytes()
            found.update(f"{file.relative_to(root)} {len(content)}\n".encode())
            found.update(content)
    return found.hexdigest()


def stamp(root: Path, modules: int) -> dict[str, str | int]:
    """What the build writes."""
    return {"sources": digest(root), "python": str(sys.implementation.cache_tag), "modules": modules}


def fresh(root: Path) -> int:
    """How many modules were compiled from exactly these sources for this Python; 0: none."""
    try:
        made = json.loads((root / FOLDER / STAMP).read_text())
    except (OSError, ValueError):
        return 0
    if not isinstance(made, dict) or not isinstance(made.get("modules"), int):
        return 0
    return int(made["modules"]) if made == stamp(root, made["modules"]) else 0


def use(root: Path = ROOT) -> bool:
    """Before the first import of a package concerned: what is imported from here on is compiled. False: it is not."""
    if os.environ.get(SWITCH) == "0" or any(package in sys.modules for package in PACKAGES):
        return False
    if not fresh(root):
        return False
    sys.path.insert(0, str(root / FOLDER))
    return True


def standing(root: Path = ROOT) -> str:
    """For people: what this process runs, or why not what was compiled."""
    if str(root / FOLDER) in sys.path:
        return f"yes, {fresh(root)} modules"
    if not (root / FOLDER / STAMP).exists():
        return PLAIN
    if os.environ.get(SWITCH) == "0":
        return f"{PLAIN} ({SWITCH}=0)"
    return f"{PLAIN} (what was compiled is older than the sources: make compile)"


def main() -> None:
    """`python -m covey.compiled MODULE ...` is `python -m MODULE ...`, compiled where that is fresh."""
    del sys.argv[0]
    use()
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()

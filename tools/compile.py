"""Compiles what every request passes through, with mypyc: `make compile`, `make test-compiled`.

The result is build/compiled: a copy of the packages with extension modules beside their sources, and a stamp that says
from which sources (covey.compiled reads it). It takes about two minutes and needs a C compiler.

Not compiled: values (`@frozen` is made for Python's own classes), what msgspec reads by its annotations, and what is
called seldom. A module belongs here if the profiler shows it for a plain request or token.

    python tools/compile.py            build, unless that is up to date
    python tools/compile.py --test     then run the unit tests of those packages against it
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from covey import compiled

ROOT = Path(__file__).resolve().parent.parent

MODULES = {
    "covey_gateway.core": "access circuit event_stream grants held_answer kept_answer offer progress records request "
    "request_continuing request_placing request_serving request_state retrying routing_fields sharing waiting_line",
    "covey_gateway.io": "alone flight http_connection http_exchange http_head http_request known_head runner straight",
    "covey_scheduler.core": "account charges clean_ask collecting deadlines decisions expectation fairness filters "
    "granted grants holdings inflight keeping known loading machine machine_cache pickers planning policy prediction "
    "prefix queue queues room scheduler standing standings unfinished visitors "
    "policies.load_only policies.cache_aware policies.products policies.predicted",
    "covey_scheduler.io": "service",
    "covey_mesh.core": "flow framing",
    "covey_mesh.io": "batching opened served turn_writer writing",
    "covey_node.core": "admission change decode_speed embeddings engine_progress known_heads measured meter "
    "observations occupancy prefill_speed prompt_line retry_after robust ticket usage",
    "covey_node.io": "attempt engine_connection http_client served_model",
}
"""Package -> its compiled modules."""

LEFT_OUT = {
    "test_routing_bench": "its clairvoyant reference takes the place of the prefix index, whose class is checked here",
}
"""Tests that are not run against the compiled build, and why."""

TOUCHED = re.compile(
    r"\b(?:covey_gateway|covey_scheduler|covey_node|tests\.support|covey_mesh\.(?:core\.flow|core\.framing|io\.batching))\b"
)
TESTS_TIMEOUT_S = 900

BUILD = """
from setuptools import setup
from mypyc.build import mypycify
flags = ["--strict", "--allow-any-generics", "--explicit-package-bases", "--ignore-missing-imports", "--config-file="]
setup(name="covey-compiled", packages=[], ext_modules=mypycify([*flags, *{files!r}], opt_level="2", debug_level="0"))
"""


def names() -> list[str]:
    """Full names of all modules to compile."""
    return [f"{package}.{name}" for package, words in MODULES.items() for name in words.split()]


def build() -> None:
    """Into build/compiled, whole or not at all. Raises SystemExit with what to do."""
    if compiled.fresh(ROOT) == len(names()):
        print("compiled modules are up to date")
        return
    if shutil.which("cc") is None and shutil.which("gcc") is None:
        sys.exit("a C compiler is needed (Debian and Ubuntu: sudo apt-get install -y gcc); covey runs without, too")
    made, work = ROOT / compiled.FOLDER, ROOT / "build" / "compiling"
    shutil.rmtree(work, ignore_errors=True)
    made_from = compiled.stamp(ROOT, len(names()))
    for package, folder in compiled.PACKAGES.items():
        shutil.copytree(ROOT / folder / package, work / package, ignore=shutil.ignore_patterns("__pycache__"))
    _run_mypyc(work)
    shutil.rmtree(work / "build")
    if compiled.digest(ROOT) != made_from["sources"]:
        shutil.rmtree(work)
        sys.exit("the sources changed while they were compiled: run it again")
    (work / compiled.STAMP).write_text(json.dumps(made_from))
    shutil.rmtree(made, ignore_errors=True)
    work.rename(made)
    print(f"compiled {len(names())} modules; covey uses them while the sources stay as they are")


def _run_mypyc(work: Path) -> None:
    files = [name.replace(".", "/") + ".py" for name in names()]
    (work / "setup.py").write_text(BUILD.format(files=files))
    print(f"compiling {len(files)} modules (about two minutes)", flush=True)
    command = [sys.executable, "setup.py", "build_ext", "--inplace", f"-j{os.cpu_count() or 1}"]
    environment = {**os.environ, "CFLAGS": "-g0", "PYTHONPATH": ""}
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"mypyc or the C compiler failed; nothing was changed\n{(done.stdout + done.stderr)[-3000:]}")


def tests() -> list[str]:
    """The unit tests that touch a package with compiled modules."""
    files = sorted((ROOT / "tests" / "unit").glob("test_*.py"))
    chosen = [file for file in files if file.stem not in LEFT_OUT and TOUCHED.search(file.read_text())]
    return [str(file.relative_to(ROOT)) for file in chosen]


def test(arguments: Sequence[str]) -> int:
    """pytest's exit code. That each module is the compiled one is a test itself (tests/unit/test_compiled.py)."""
    path = os.pathsep.join(filter(None, (str(ROOT / compiled.FOLDER), os.environ.get("PYTHONPATH", ""))))
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-m", "pytest", "-q", "tests/unit/test_compiled.py", *tests(), *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False, timeout=TESTS_TIMEOUT_S).returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--test", action="store_true", help="run the unit tests against it; further words go to pytest")
    chosen, further = parser.parse_known_args()
    build()
    if chosen.test:
        sys.exit(test(further))


if __name__ == "__main__":
    main()

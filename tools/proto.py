"""Generates mesh/covey_mesh/wire/v1 from proto/, or with --check says whether it is fresh.

protoc's own Python output is kept as it is: the .proto files live under proto/covey_mesh/wire/v1 so that the
generated imports are right without patching.
"""

from __future__ import annotations

import argparse
import filecmp
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "proto"
WIRE = Path("covey_mesh/wire/v1")
# Only services that clients call get a generated stub; the link's handler is written by hand, with raw bytes.
WITH_STUBS = ("batches", "inference", "pool")


def generate(target: Path) -> None:
    """Write the generated modules below `target`."""
    sources = sorted(str(p.relative_to(SOURCES)) for p in (SOURCES / WIRE).glob("*.proto"))
    includes = [f"-I{SOURCES}", f"-I{Path(protoc.__file__).parent / '_proto'}"]
    outputs = [f"--python_out={target}", f"--pyi_out={target}"]
    stubs = [s for s in sources if Path(s).stem in WITH_STUBS]
    for arguments in ([*outputs, *sources], [f"--grpc_python_out={target}", *stubs]):
        if protoc.main(["protoc", *includes, *arguments]) != 0:
            sys.exit("protoc failed; its message is above")


def stale_files(fresh: Path, kept: Path) -> list[str]:
    """Names that differ between a fresh generation and the kept one."""
    names = {p.name for p in fresh.glob("*_pb2*")} | {p.name for p in kept.glob("*_pb2*")}
    return sorted(
        n
        for n in names
        if not (fresh / n).exists() or not (kept / n).exists() or not filecmp.cmp(fresh / n, kept / n, shallow=False)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if the generated code is stale")
    if not parser.parse_args().check:
        generate(ROOT / "mesh")
        return
    with tempfile.TemporaryDirectory() as fresh:
        generate(Path(fresh))
        stale = stale_files(Path(fresh) / WIRE, ROOT / "mesh" / WIRE)
    if stale:
        sys.exit(f"generated code is stale: {', '.join(stale)}; run `make proto` and commit the result")


if __name__ == "__main__":
    main()

"""docs/api.md lists every path, error code, header and RPC, and nothing that does not exist."""

from __future__ import annotations

import re
from pathlib import Path

from covey_gateway.core.errors import Code
from covey_gateway.core.paths import ENGINE_PATHS
from covey_gateway.io.http_head import EXPOSED
from covey_mesh.wire.v1 import batches_pb2, inference_pb2, pool_pb2

TEXT = (Path(__file__).resolve().parents[2] / "docs/api.md").read_text()


def _section(start: str, end: str) -> str:
    return TEXT.partition(start)[2].partition(end)[0]


def test_engine_paths() -> None:
    rows = re.findall(r"^\| `(/[^`]+)` \| (\w+) \|$", TEXT, re.M)
    assert dict(rows) == {path: kind.value for path, kind in ENGINE_PATHS.items()}


def test_error_codes() -> None:
    table = _section("### Errors", "An engine's own 4xx")
    named = set(re.findall(r"`([a-z]+(?:_[a-z_]+)?)`", table)) - {"internal"}
    assert named - {c.value for c in Code} == set()
    assert {c.value for c in Code} - {"internal"} <= named
    assert "`internal`" in table


def test_response_headers() -> None:
    for header in EXPOSED.split(", "):
        assert f"`{header}`" in TEXT


def test_rpcs() -> None:
    for file in (batches_pb2, inference_pb2, pool_pb2):
        for service in file.DESCRIPTOR.services_by_name.values():
            row = next(line for line in TEXT.splitlines() if line.startswith(f"| `{service.full_name}`"))
            assert set(re.findall(r"`(\w+)`", row)) == {m.name for m in service.methods}

"""One thing that the doctor has to say."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`fail`: covey will not work as it should until this is mended. `warn`: it works, less well or not everywhere.

    `fix` says what to do, as a command where there is one; empty for `ok`.
    """

    level: Level
    title: str
    detail: str
    fix: str = ""

    def __post_init__(self) -> None:
        assert self.level == "ok" or self.fix, f"{self.title}: a finding without a fix helps nobody"

    def as_json(self) -> dict[str, str]:
        """For `covey doctor --json`."""
        return asdict(self)


def ok(title: str, detail: str) -> Finding:
    """Nothing to do."""
    return Finding("ok", title, detail)


def warn(title: str, detail: str, fix: str) -> Finding:
    """Works, less well or not everywhere."""
    return Finding("warn", title, detail, fix)


def fail(title: str, detail: str, fix: str) -> Finding:
    """Must be mended."""
    return Finding("fail", title, detail, fix)

"""multipart/form-data (RFC 7578) as its bytes come: part by part, never a whole file in memory.

Feed pieces of any size; parts come back in order as Part, bytes and PartEnd. Bounded: headers of a part, number of
parts. Raises MultipartError for what is malformed. Not here: what the fields mean.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

HEADER_BYTES_MAX = 8 * 1024
PARTS_MAX = 32
BOUNDARY_CHARACTERS_MAX = 70

_BOUNDARY = re.compile(r"""multipart/form-data\s*;(?:.*;)?\s*boundary\s*=\s*(?:"([^"]+)"|([^\s;"]+))""", re.I)
_PARAMETER = re.compile(r';\s*([a-zA-Z*]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))')


class MultipartError(ValueError):
    """The body is not what its Content-Type promises."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part begins. `filename` is None for a plain field."""

    name: str
    filename: str | None


@dataclass(frozen=True, slots=True)
class PartEnd:
    """The part is complete."""


Event = Part | bytes | PartEnd


def boundary_of(content_type: str) -> bytes | None:
    """From the header; None where it is no multipart/form-data."""
    found = _BOUNDARY.match(content_type.strip())
    boundary = (found[1] or found[2]) if found else ""
    if not 0 < len(boundary) <= BOUNDARY_CHARACTERS_MAX or not boundary.isascii():
        return None
    return boundary.encode()


class MultipartReader:
    """Three states: before a part's headers, inside a part's content, after the last boundary."""

    def __init__(self, boundary: bytes) -> None:
        self._mark = b"\r\n--" + boundary
        # The first boundary has no line break before it; with this one all are alike.
        self._held = bytearray(b"\r\n")
        self._in_part = False
        self._preamble = True
        self._parts = 0
        self.complete = False

    def feed(self, piece: bytes) -> list[Event]:
        found: list[Event] = []
        if self.complete:
            # The epilogue means nothing.
            return found
        self._held += piece
        while self._advance(found):
            pass
        return found

    def _advance(self, found: list[Event]) -> bool:
        return self._content(found) if self._in_part or self._preamble else self._headers(found)

    def _content(self, found: list[Event]) -> bool:
        """Up to the next boundary; what may be the beginning of one stays."""
        at = self._held.find(self._mark)
        if at < 0:
            keep = len(self._mark) - 1
            self._give(found, len(self._held) - keep)
            return False
        self._give(found, at)
        if len(self._held) < len(self._mark) + 2:
            return False
        after = bytes(self._held[len(self._mark) : len(self._mark) + 2])
        if after not in (b"\r\n", b"--"):
            raise MultipartError("a boundary is followed by something else")
        if self._in_part:
            found.append(PartEnd())
        self._in_part = self._preamble = False
        self.complete = after == b"--"
        # The line break stays: the headers of a part may be empty.
        del self._held[: len(self._mark)]
        return not self.complete

    def _give(self, found: list[Event], count: int) -> None:
        if count > 0:
            if self._in_part:
                found.append(bytes(self._held[:count]))
            del self._held[:count]

    def _headers(self, found: list[Event]) -> bool:
        at = self._held.find(b"\r\n\r\n")
        if at < 0 or at > HEADER_BYTES_MAX:
            if len(self._held) > HEADER_BYTES_MAX:
                raise MultipartError("the headers of a part are too long")
            return False
        self._parts += 1
        if self._parts > PARTS_MAX:
            raise MultipartError(f"more than {PARTS_MAX} parts")
        found.append(_part(bytes(self._held[:at])))
        del self._held[: at + 4]
        self._in_part = True
        return True


def _part(raw: bytes) -> Part:
    for line in raw.decode("utf-8", "replace").split("\r\n"):
        name, _, value = line.partition(":")
        if name.strip().lower() == "content-disposition":
            return _disposition(value)
    raise MultipartError("a part has no Content-Disposition")


def _disposition(value: str) -> Part:
    if not value.strip().lower().startswith("form-data"):
        raise MultipartError("a part is no form-data")
    given = {m[1].lower(): m[2].replace("\\", "") if m[2] is not None else m[3] for m in _PARAMETER.finditer(value)}
    if "name" not in given:
        raise MultipartError("a part has no name")
    return Part(given["name"], given.get("filename"))

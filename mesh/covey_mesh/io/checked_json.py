"""One value as a line of JSON with its checksum on a second line: how small state files notice that they were torn.

Not here: writing (state_files.py), and what the values mean.
"""

from __future__ import annotations

import json
import zlib
from typing import Any


class CorruptFile(Exception):
    """The content is not what was once written."""


def encode_checked(value: Any) -> bytes:
    """`value`: anything that JSON can hold."""
    line = json.dumps(value).encode()
    return line + b"\n%08x\n" % zlib.crc32(line)


def decode_checked(content: bytes) -> Any:
    """Raises CorruptFile."""
    line, _, checksum = content.partition(b"\n")
    if checksum != b"%08x\n" % zlib.crc32(line):
        raise CorruptFile("its checksum does not match")
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CorruptFile(f"not JSON: {error!r}") from error

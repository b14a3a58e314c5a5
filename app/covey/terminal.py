"""Text from elsewhere (names of machines, answers of models, reasons), fit for a person's terminal.

A terminal obeys control characters: it can be told to retitle itself, to hide a line or to type for its user. Whoever
shows such text passes it through here. Not here: JSON for programs, which stays as it came.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

REPLACEMENT = "�"
_KEPT = "\n\t"


def harmless(text: str) -> str:
    """Control characters but line breaks and tabs replaced; everything that prints is kept."""
    if text.isprintable():
        return text
    return "".join(REPLACEMENT if _is_control(character) else character for character in text)


def harmless_all(value: Any) -> Any:
    """Every text in a JSON value, keys too."""
    if isinstance(value, str):
        return harmless(value)
    if isinstance(value, Mapping):
        return {harmless_all(key): harmless_all(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [harmless_all(each) for each in value]
    return value


def _is_control(character: str) -> bool:
    """C0, DEL, C1; and the marks that turn the direction of what follows (U+202A to 202E, U+2066 to 2069)."""
    if character in _KEPT:
        return False
    code = ord(character)
    return code < 32 or 127 <= code < 160 or 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069

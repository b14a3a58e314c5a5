"""Protobuf messages as plain dictionaries for people and scripts.

protobuf's own JSON mapping writes 64-bit integers as strings; here numbers stay numbers, enums are lower-case words
without their prefix, and absent optional fields are null, so that every key is always there.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message


def plain(message: Message) -> dict[str, Any]:
    """Every field of `message` by its proto name."""
    return {field.name: _field(message, field) for field in message.DESCRIPTOR.fields}


# Descriptors come in a pure and a C flavour that share no type: Any.
def _field(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return dict(value)
    if field.is_repeated:
        return [_value(item, field) for item in value]
    if field.has_presence and not message.HasField(field.name):
        return None
    return _value(value, field)


def _value(value: Any, field: Any) -> Any:
    if field.message_type is not None:
        return plain(value)
    if field.enum_type is not None:
        return _word(field.enum_type, value)
    return value


def _word(kind: Any, number: int) -> str | int:
    found = kind.values_by_number.get(number)
    if found is None:
        return number
    words = str(found.name).lower()
    shared = "".join("_" + c.lower() if c.isupper() else c for c in kind.name).lstrip("_") + "_"
    return words.removeprefix(shared)

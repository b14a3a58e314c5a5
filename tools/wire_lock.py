"""Keeps proto/covey.v1.lock: one line for everything that other versions may rely on.

`make proto` adds what is new. Nothing is ever taken away: a line that no longer holds breaks agents that are still
running the version before, and tests/unit/test_wire_compatibility.py fails on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from covey_mesh.wire.v1 import batches_pb2, inference_pb2, link_pb2, pool_pb2, types_pb2

LOCK = Path(__file__).resolve().parent.parent / "proto" / "covey.v1.lock"
WIRE = (types_pb2, link_pb2, pool_pb2, inference_pb2, batches_pb2)
FILES = tuple(module.DESCRIPTOR for module in WIRE)
_TYPES = {
    value: name.removeprefix("TYPE_").lower()
    for name, value in vars(FieldDescriptor).items()
    if name.startswith("TYPE_")
}


def lines() -> list[str]:
    """Everything that the wire promises now, sorted."""
    found: list[str] = []
    for file in FILES:
        for enum in file.enum_types_by_name.values():
            found += _enum(enum)
        for message in file.message_types_by_name.values():
            found += _message(message)
        for service in file.services_by_name.values():
            found += [
                f"rpc {m.full_name} {_arrow(m.client_streaming)}{m.input_type.full_name} "
                f"{_arrow(m.server_streaming)}{m.output_type.full_name}"
                for m in service.methods
            ]
    return sorted(found)


def _arrow(streaming: bool) -> str:
    return "stream:" if streaming else ""


def _enum(enum: EnumDescriptor) -> Iterator[str]:
    return (f"enum {enum.full_name} {v.number} {v.name}" for v in enum.values)


def _message(message: Descriptor) -> Iterator[str]:
    for nested in message.nested_types:
        yield from _message(nested)
    for enum in message.enum_types:
        yield from _enum(enum)
    for field in message.fields:
        kind = field.message_type or field.enum_type
        name = kind.full_name if kind is not None else _TYPES[field.type]
        shape = "repeated" if field.is_repeated else "single"
        group = f" in {field.containing_oneof.name}" if field.containing_oneof else ""
        yield f"field {message.full_name} {field.number} {field.name} {shape} {name}{group}"


def main() -> None:
    """Add what is new; never removes a line."""
    kept = set(LOCK.read_text().splitlines()) if LOCK.exists() else set()
    LOCK.write_text("\n".join(sorted(kept | set(lines()))) + "\n")


if __name__ == "__main__":
    main()

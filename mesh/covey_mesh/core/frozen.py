"""Values that are made for each request: frozen for whoever reads the types, and quick to make.

A frozen dataclass sets each field through `object.__setattr__`: ten fields take 1.9 us, without it 0.3 us, and a
request makes some twenty such values. So the type checker alone enforces that nobody assigns to a field; the rest
(equality, hash, slots, `dataclasses.replace`) is a frozen dataclass's. For what is made seldom, use
`@dataclass(frozen=True)`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

_Class = TypeVar("_Class")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[_Class]) -> type[_Class]:
    """A dataclass with slots whose fields must not be assigned to."""
    return dataclass(slots=True, unsafe_hash=True)(cls)

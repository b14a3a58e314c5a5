"""How one setting's value is read, from TOML (typed) or from the environment and flags (text).

Each reader takes whatever a source holds and returns the value of one type, or raises ValueError with a message that
completes the sentence "<setting> <message>".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

PORT_MAX = 65535

Reader = Callable[[object], Any]

_BYTE_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_YES = ("1", "true", "yes", "on")
_NO = ("0", "false", "no", "off")


def setting(default: Any, reader: Reader, describe: str) -> Any:
    """A dataclass field that knows how to read itself. `default` may be a callable that makes the value."""
    metadata = {"reader": reader, "describe": describe}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be text, not {value!r}")
    return value


def path(value: object) -> Path:
    if isinstance(value, Path):
        return value.expanduser()
    return Path(text(value)).expanduser()


def switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in _YES:
        return True
    if word in _NO:
        return False
    raise ValueError(f"must be true or false, not {value!r}")


def count(value: object) -> int:
    """A whole number of things, zero or more."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"must be a whole number, not {value!r}")
    try:
        number = int(value)
    except ValueError:
        raise ValueError(f"must be a whole number, not {value!r}") from None
    if number < 0:
        raise ValueError(f"must not be negative, but is {number}")
    return number


def port(value: object) -> int:
    """A TCP port; 0: none."""
    number = count(value)
    if number > PORT_MAX:
        raise ValueError(f"{number} is no port: 0 to {PORT_MAX}")
    return number


def quantity(value: object) -> float:
    """A number of seconds, tokens a second and the like: zero or more."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"must be a number, not {value!r}")
    try:
        number = float(value)
    except ValueError:
        raise ValueError(f"must be a number, not {value!r}") from None
    if not 0 <= number < float("inf"):
        raise ValueError(f"must be zero or more, but is {value}")
    return number


def size_bytes(value: object) -> int:
    """Bytes as a number, or as text with a binary unit: "512M", "4G", "4GiB"."""
    if not isinstance(value, str):
        return count(value)
    word = value.strip().lower().removesuffix("ib").removesuffix("b")
    digits = word.rstrip("kmgt")
    unit = word[len(digits) :]
    if unit not in _BYTE_UNITS:
        raise ValueError(f"must be bytes such as 512M or 4G, not {value!r}")
    try:
        return round(quantity(digits) * _BYTE_UNITS[unit])
    except ValueError:
        raise ValueError(f"must be bytes such as 512M or 4G, not {value!r}") from None


def address(value: object) -> str:
    """HOST:PORT, with an IPv6 host in brackets; port 0 asks the system for a free one."""
    word = text(value).strip()
    host, separator, port = word.rpartition(":")
    if not separator or not host or not port.isdecimal() or int(port) > PORT_MAX:
        raise ValueError(f"must be HOST:PORT (such as 127.0.0.1:8080), not {value!r}")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError(f"must put an IPv6 host in brackets ([::1]:8080), not {value!r}")
    return word


def split_address(word: str) -> tuple[str, int]:
    """Host without brackets, and port, of an address that `address` accepted."""
    host, _, port = word.rpartition(":")
    return host.strip("[]"), int(port)


def words(value: object) -> tuple[str, ...]:
    """A list of texts; in the environment separated by commas."""
    if isinstance(value, str):
        return tuple(word.strip() for word in value.split(",") if word.strip())
    if isinstance(value, list | tuple):
        return tuple(text(item) for item in value)
    raise ValueError(f"must be a list of texts, not {value!r}")


def arguments(value: object) -> tuple[str, ...]:
    """A list of command-line arguments; in the environment separated by spaces, since commas occur inside."""
    if isinstance(value, str):
        return tuple(value.split())
    return words(value)


def addresses(value: object) -> tuple[str, ...]:
    return tuple(address(word) for word in words(value))


def one_of(*choices: str) -> Reader:
    def read(value: object) -> str:
        if value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}, not {value!r}")
        return str(value)

    return read


def table(value: object) -> Mapping[str, str]:
    """Names and texts; in the environment NAME=TEXT separated by commas."""
    if isinstance(value, Mapping):
        return {text(name): text(word) for name, word in value.items()}
    pairs = [word.partition("=") for word in words(value)]
    if not all(separator for _, separator, _ in pairs):
        raise ValueError("must be NAME=TEXT pairs")
    return {name.strip(): word.strip() for name, _, word in pairs}

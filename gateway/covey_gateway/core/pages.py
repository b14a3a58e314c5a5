"""Plain requests and answers: all that the edge serves besides engine paths (models, health, metrics, admin, console).

A page is a small async function; the edge gives it a complete request and sends its complete answer.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field


class Access(enum.Enum):
    """Who may read a page. LOCAL means the agent's Unix socket alone, whatever key is shown: for administration."""

    OPEN = "open"
    KEYED = "keyed"
    LOCAL = "local"


@dataclass(frozen=True, slots=True)
class PlainRequest:
    """`headers` has lower-case names. `tail` is what follows a prefix route. `user` is the key's owner, "" locally.

    `pieces` is the body of an upload route as it comes; it raises GatewayError where the rest does not come.
    """

    method: str
    path: str
    tail: str = ""
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    user: str = ""
    pieces: AsyncIterator[bytes] | None = None


@dataclass(frozen=True, slots=True)
class PlainResponse:
    """Complete in `body`, or sent as `pieces` come, `length` bytes of them (None: unknown)."""

    status: int = 200
    content_type: str = "application/json"
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    pieces: AsyncGenerator[bytes, None] | None = None
    length: int | None = None


Handler = Callable[[PlainRequest], Awaitable[PlainResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """`upload_bytes_max`: not 0 where the handler reads the body while it comes, up to that size."""

    handler: Handler
    access: Access = Access.KEYED
    upload_bytes_max: int = 0


class Routes:
    """(method, path) -> Route, and (method, path prefix) -> Route; exact ones win, then the longest prefix."""

    def __init__(
        self, exact: Mapping[tuple[str, str], Route], prefixes: Mapping[tuple[str, str], Route] | None = None
    ) -> None:
        self._exact = dict(exact)
        self._prefixes = sorted((prefixes or {}).items(), key=lambda item: -len(item[0][1]))

    def merged(self, other: Routes) -> Routes:
        """Both; `other` wins where they clash."""
        return Routes({**self._exact, **other._exact}, {**dict(self._prefixes), **dict(other._prefixes)})

    def items(self) -> list[tuple[tuple[str, str], bool, Route]]:
        """(method, path or its prefix), whether it is a prefix, and the route."""
        exact = [(key, False, route) for key, route in self._exact.items()]
        return [*exact, *((key, True, route) for key, route in self._prefixes)]

    def find(self, method: str, path: str) -> tuple[Route, str] | None:
        """The route and the tail after its prefix. HEAD is served by GET's route."""
        method = "GET" if method == "HEAD" else method
        exact = self._exact.get((method, path))
        if exact is not None:
            return exact, ""
        for (each, prefix), route in self._prefixes:
            if each == method and path.startswith(prefix):
                return route, path[len(prefix) :]
        return None

    def methods(self, path: str) -> list[str]:
        """What may be done with a path; empty if it is unknown."""
        found = {method for method, each in self._exact if each == path}
        found |= {method for (method, prefix), _ in self._prefixes if path.startswith(prefix)}
        return sorted(found | ({"HEAD"} if "GET" in found else set()))

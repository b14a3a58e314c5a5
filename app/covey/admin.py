"""The agent's own HTTP routes, below /covey/v1: what `covey ps` and its siblings ask. JSON in and out.

Looking is allowed to whoever may use the endpoint; changing only to this machine. JSON shapes of pool and explain are
the messages of proto/covey_mesh/wire/v1/pool.proto.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from typing import Any, Protocol

from covey.errors import UserError
from covey_gateway.core.pages import Access, Handler, PlainRequest, PlainResponse, Route, Routes
from covey_gateway.core.speed_table import plain_rows
from covey_gateway.io.plain import plain
from covey_gateway.io.status import PoolStatus

log = logging.getLogger(__name__)

BODY_BYTES_MAX = 64 * 1024
GRACE_MAX_S = 3600.0
VALID_MAX_MINUTES = 7 * 24 * 60.0


class Controls(Protocol):
    """What a command may change."""

    def drain(self, draining: bool, grace_s: float | None) -> None:
        """`grace_s`: how long what runs may take; None: as configured."""

    def shut_down(self, grace_s: float | None) -> None:
        """Begin to stop; returns at once. None: the configured grace."""

    async def invite(self, valid_minutes: float | None) -> Mapping[str, Any]:
        """A join token and when it expires. Raises UserError where this machine cannot invite."""

    async def revoke_invitations(self) -> None:
        """Returns once no token is good any more. Raises UserError where this machine cannot invite."""


class AdminRoutes:
    """Handlers only; `routes` says where they hang."""

    def __init__(self, status: PoolStatus, controls: Controls) -> None:
        self._status = status
        self._controls = controls

    def routes(self) -> Routes:
        return Routes(
            {
                ("GET", "/covey/v1/pool"): Route(self._pool),
                ("GET", "/covey/v1/speeds"): Route(self._speeds),
                ("POST", "/covey/v1/drain"): Route(checked(self._drain), Access.LOCAL),
                ("POST", "/covey/v1/shutdown"): Route(checked(self._shutdown), Access.LOCAL),
                ("POST", "/covey/v1/invite"): Route(checked(self._invite), Access.LOCAL),
                ("POST", "/covey/v1/revoke-invitations"): Route(self._revoke_invitations, Access.LOCAL),
            },
            {("GET", "/covey/v1/explain/"): Route(self._explain)},
        )

    async def _pool(self, request: PlainRequest) -> PlainResponse:
        return answer(plain(self._status.snapshot()))

    async def _speeds(self, request: PlainRequest) -> PlainResponse:
        return answer({"speeds": plain_rows(self._status.speeds(time.time()))})

    async def _explain(self, request: PlainRequest) -> PlainResponse:
        found = await self._status.explain(request.tail)
        if found is None:
            return refusal(404, "no reachable machine remembers that request; each keeps its last 1,000")
        return answer(plain(found))

    async def _drain(self, request: PlainRequest) -> PlainResponse:
        wanted = read_object(request).get("draining", True)
        if not isinstance(wanted, bool):
            return refusal(400, "`draining` must be true or false")
        self._controls.drain(wanted, read_number(request, "grace_s", GRACE_MAX_S))
        return answer({"draining": wanted})

    async def _shutdown(self, request: PlainRequest) -> PlainResponse:
        grace_s = read_number(request, "grace_s", GRACE_MAX_S)
        log.info("asked to stop", extra={"grace_s": grace_s})
        self._controls.shut_down(grace_s)
        return answer({"stopping": True})

    async def _invite(self, request: PlainRequest) -> PlainResponse:
        try:
            valid_minutes = read_number(request, "valid_minutes", VALID_MAX_MINUTES)
            return answer(dict(await self._controls.invite(valid_minutes)))
        except UserError as error:
            return cannot(error)

    async def _revoke_invitations(self, request: PlainRequest) -> PlainResponse:
        try:
            await self._controls.revoke_invitations()
        except UserError as error:
            return cannot(error)
        return answer({"revoked": True})


class BadBody(Exception):
    """The body of an admin request is not what it must be."""


def checked(handler: Handler) -> Handler:
    """`handler`, answering 400 where it raises BadBody."""

    async def handle(request: PlainRequest) -> PlainResponse:
        try:
            return await handler(request)
        except BadBody as error:
            return refusal(400, str(error))

    return handle


def read_object(request: PlainRequest) -> Mapping[str, Any]:
    """The JSON object in the body; an empty body is an empty object. Raises BadBody."""
    if len(request.body) > BODY_BYTES_MAX:
        raise BadBody(f"the body is longer than {BODY_BYTES_MAX} bytes")
    try:
        value = json.loads(request.body or b"{}")
    except (ValueError, RecursionError):
        raise BadBody("the body is not JSON") from None
    if not isinstance(value, dict):
        raise BadBody("the body must be a JSON object")
    return value


def read_number(request: PlainRequest, name: str, largest: float) -> float | None:
    """A number from 0 to `largest`, or None where absent. Raises BadBody."""
    value = read_object(request).get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= largest:
        raise BadBody(f"`{name}` must be a number from 0 to {largest:g}")
    return float(value)


def cannot(error: UserError) -> PlainResponse:
    """This machine, as it is, cannot do that."""
    return refusal(409, f"{error}: {error.next_step}" if error.next_step else str(error))


def answer(content: Mapping[str, Any]) -> PlainResponse:
    return PlainResponse(body=json.dumps(content, ensure_ascii=False).encode())


def refusal(status: int, message: str) -> PlainResponse:
    """In OpenAI's shape, like every other error of the endpoint."""
    content = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}
    return PlainResponse(status=status, body=json.dumps(content).encode())

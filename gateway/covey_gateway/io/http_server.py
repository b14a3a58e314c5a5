"""The HTTP edge: listens on TCP and on a Unix socket, routes requests to the front door or to a page.

Not here: the bytes of a connection (http_connection.py) and of an answer (http_exchange.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import logging
import os
import socket
import stat
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from covey_gateway.core import errors
from covey_gateway.core.access import AccessPolicy, Caller
from covey_gateway.core.errors import Code, GatewayError
from covey_gateway.core.front import FrontDoor, IncomingRequest
from covey_gateway.core.keys import KeyRing
from covey_gateway.core.observer import Observer
from covey_gateway.core.pages import Access, PlainRequest, PlainResponse, Route, Routes
from covey_gateway.core.paths import ENGINE_PATHS
from covey_gateway.core.retrying import BufferBudget
from covey_gateway.core.settings import HttpSettings
from covey_gateway.io.http_connection import HttpConnection
from covey_gateway.io.http_exchange import Exchange
from covey_gateway.io.http_request import HttpRequest
from covey_mesh.io.turn_writer import Turn

logger = logging.getLogger(__name__)

SWEEP_S = 0.25
"""How often connections are looked over for time-outs."""

BACKLOG = 1024
REFUSED_CONNECTIONS_MAX = 256
"""Connections above the limit that are still told so; beyond them a connection is dropped without a word."""

UNIX_SHARE, LOOPBACK_SHARE = "unix", "loopback"

PREFLIGHT_AGE_S = 600


class HttpServer:
    """`start` listens; `port` is the real one where 0 was asked for. Also the ConnectionOwner of its connections."""

    def __init__(
        self,
        door: FrontDoor,
        keys: KeyRing,
        routes: Routes,
        settings: HttpSettings,
        observer: Observer,
        clock: Callable[[], float],
    ) -> None:
        self.settings = settings
        self.bodies = BufferBudget(settings.bodies_total_bytes_max)
        self.draining = False
        self.turn = Turn(lambda callback: asyncio.get_running_loop().call_soon(callback))
        self.port = 0
        self._door = door
        self._routes = routes
        # Pages come first, should one have such a path.
        self._engine_paths = frozenset(path for path in ENGINE_PATHS if routes.find("POST", path) is None)
        self._observer = observer
        self.now_s = clock
        self.date_line = date_line()
        self._connections: set[HttpConnection] = set()
        self._shares: Counter[str] = Counter()
        self._nobody = asyncio.Event()
        self._nobody.set()
        self._servers: list[asyncio.Server] = []
        self._sweeper: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.set_keys(keys)

    def set_keys(self, keys: KeyRing) -> None:
        """Keys were added or revoked; the next request already sees it."""
        settings = self.settings
        trusted = (*settings.trusted_hosts, *own_names())
        self.access = AccessPolicy(keys, settings.key_on_loopback, trusted, settings.cors_origins)

    # --- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Raises OSError when an address is taken."""
        try:
            await self._listen()
        except OSError:
            self._stop_listening()
            raise
        self._sweep()

    async def drain(self, grace_s: float) -> bool:
        """Listen no more, finish what is in flight with `Connection: close`. False if something was cut off."""
        self.draining = True
        self._stop_listening()
        self.look_over()
        try:
            async with asyncio.timeout(grace_s):
                await self._nobody.wait()
        except TimeoutError:
            pass
        cut_off = any(connection.busy for connection in self._connections)
        await self.close()
        return not cut_off

    async def close(self) -> None:
        """End everything now."""
        self._stop_listening()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for connection in list(self._connections):
            connection.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.settings.unix_path:
            remove_file(self.settings.unix_path)
        await asyncio.sleep(0)

    def _stop_listening(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()

    async def _listen(self) -> None:
        settings = self.settings
        self.port = settings.port
        for _ in range(max(1, settings.shares)):
            tcp = await asyncio.get_running_loop().create_server(
                lambda: HttpConnection(self, unix=False), settings.host, self.port, backlog=BACKLOG, reuse_address=True,
                reuse_port=settings.shares > 0,
            )  # fmt: skip
            self._servers.append(tcp)
            self.port = tcp.sockets[0].getsockname()[1]
        if settings.unix_path:
            self._servers.append(await self._listen_unix(settings.unix_path))

    async def _listen_unix(self, path: str) -> asyncio.Server:
        remove_stale_socket(Path(path))
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # Narrow from the first moment: a chmod after bind would leave a gap.
        mask = os.umask(0o177)
        try:
            listener.bind(path)
        except OSError:
            listener.close()
            raise
        finally:
            os.umask(mask)
        loop = asyncio.get_running_loop()
        return await loop.create_unix_server(lambda: HttpConnection(self, unix=True), sock=listener, backlog=BACKLOG)

    def _sweep(self) -> None:
        self.look_over()
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def look_over(self) -> None:
        """End what takes too long; runs by itself every SWEEP_S."""
        self.date_line = date_line()
        now_s = self.now_s()
        for connection in list(self._connections):
            connection.sweep(now_s)

    # --- ConnectionOwner ---------------------------------------------------------------------------------------------

    def admit(self, connection: HttpConnection) -> bool:
        self._connections.add(connection)
        self._nobody.clear()
        share, most = self._share(connection)
        self._shares[share] += 1
        excess = self._shares[share] - most
        if not connection.unix:
            excess = max(excess, self._connections_tcp - self.settings.connections_max)
        if excess > REFUSED_CONNECTIONS_MAX:
            connection.abort()
        return excess <= 0

    def _share(self, connection: HttpConnection) -> tuple[str, int]:
        """Whose connections are counted together, and how many they may be."""
        settings = self.settings
        if connection.unix:
            return UNIX_SHARE, settings.connections_unix_max
        if connection.local:
            return LOOPBACK_SHARE, settings.connections_max
        return connection.host, settings.connections_per_address_max

    @property
    def _connections_tcp(self) -> int:
        return len(self._connections) - self._shares[UNIX_SHARE]

    def gone(self, connection: HttpConnection) -> None:
        if connection in self._connections:
            share, _ = self._share(connection)
            self._shares[share] -= 1
            if not self._shares[share]:
                del self._shares[share]
        self._connections.discard(connection)
        if not self._connections:
            self._nobody.set()

    def refused(self, error: GatewayError) -> None:
        self._observer.refused(error.code.value)

    def check(self, connection: HttpConnection, request: HttpRequest) -> None:
        """Raises GatewayError 401, 403, 404 or 405."""
        engines = request.method == "POST" and request.path in self._engine_paths
        found = None if engines else self._routes.find(request.method, request.path)
        if found is not None:
            request.route, request.tail = found
        access = found[0].access if found else Access.KEYED
        if request.method == "OPTIONS":
            # A browser's preflight carries no key.
            access = Access.OPEN
        headers = request.headers
        request.user = self.access.admit(
            access,
            Caller(
                connection.local,
                connection.unix,
                headers.get("host", ""),
                headers.get("origin", ""),
                headers.get("authorization", ""),
                headers.get("x-api-key", ""),
            ),
        )
        if found is None and not engines:
            self._check_known(request)

    def upload_bytes_max(self, request: HttpRequest) -> int:
        found = self._routes.find(request.method, request.path)
        return found[0].upload_bytes_max if found else 0

    def _check_known(self, request: HttpRequest) -> None:
        methods = self._methods(request.path)
        if not methods:
            raise errors.path_not_found(request.method, request.path)
        request.allow = ", ".join([*methods, "OPTIONS"])
        if request.method != "OPTIONS":
            raise errors.method_not_allowed(request.method, request.path, request.allow)

    def _methods(self, path: str) -> list[str]:
        return [*self._routes.methods(path), *(["POST"] if path in ENGINE_PATHS else [])]

    def serve(self, exchange: Exchange) -> None:
        request = exchange.request
        if request.route is not None:
            self._serve_page(exchange, request.route, request.tail)
        elif request.method == "OPTIONS":
            exchange.page(self._preflight(request))
        else:
            self._read_fields(exchange)

    def submit(self, exchange: Exchange, incoming: IncomingRequest) -> None:
        exchange.active = self._door.submit(incoming, exchange)

    # --- answering ---------------------------------------------------------------------------------------------------

    def _read_fields(self, exchange: Exchange) -> None:
        request = exchange.request
        try:
            deadline_s, priority = request.deadline_s(), request.priority()
        except GatewayError as error:
            self.refused(error)
            exchange.refuse(error)
            return
        self.submit(exchange, IncomingRequest(request.path, request.take_body(), request.user, priority, deadline_s))

    def _preflight(self, request: HttpRequest) -> PlainResponse:
        headers = [("allow", request.allow)]
        if self.access.cors_origin(request.headers.get("origin", "")):
            wanted = request.headers.get("access-control-request-headers", "")
            headers += [
                ("access-control-allow-methods", request.allow),
                ("access-control-allow-headers", wanted or "authorization, content-type"),
                ("access-control-max-age", str(PREFLIGHT_AGE_S)),
            ]
        return PlainResponse(204, "text/plain", b"", tuple(headers))

    def _serve_page(self, exchange: Exchange, route: Route, tail: str) -> None:
        request = exchange.request
        plain = PlainRequest(
            request.method, request.path, tail, request.query, request.headers, request.take_body(), request.user,
            None if request.upload is None else request.upload.pieces(),
        )  # fmt: skip
        task = asyncio.get_running_loop().create_task(self._run_page(exchange, route, plain))
        exchange.task = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run_page(self, exchange: Exchange, route: Route, plain: PlainRequest) -> None:
        try:
            # An upload takes as long as its client's line needs; a client that stalls is ended by the connection.
            async with asyncio.timeout(self.settings.page_timeout_s if plain.pieces is None else None):
                response = await route.handler(plain)
        except GatewayError as error:
            exchange.refuse(error)
        except TimeoutError:
            message = "The page took too long; try again."
            exchange.refuse(GatewayError(504, Code.DEADLINE_EXCEEDED, message, "timeout_error"))
        except Exception:
            logger.exception("bug in a page", extra={"path": plain.path})
            exchange.refuse(errors.internal())
        else:
            await self._send(exchange, response)

    async def _send(self, exchange: Exchange, response: PlainResponse) -> None:
        if response.pieces is None:
            exchange.page(response)
            return
        flow = _Flow()
        exchange.active = flow
        exchange.open_page(response)
        try:
            async with contextlib.aclosing(response.pieces):
                async for piece in response.pieces:
                    if exchange.done:
                        return
                    exchange.page_piece(piece)
                    await flow.free.wait()
        except GatewayError as error:
            logger.info("an answer in pieces broke off", extra={"reason": error.code.value})
            exchange.close_page(complete=False)
        except Exception:
            logger.exception("bug in a page")
            exchange.close_page(complete=False)
        else:
            exchange.close_page(complete=True)


class _Flow:
    """The hold on a page that is sent in pieces (covey_gateway.core.front.ActiveRequest)."""

    request_id = ""

    def __init__(self) -> None:
        self.free = asyncio.Event()
        self.free.set()

    def cancel(self) -> None:
        """The page's task is cancelled by the exchange."""

    def pause(self) -> None:
        self.free.clear()

    def resume(self) -> None:
        self.free.set()


def date_line() -> bytes:
    """The header; made anew with each sweep, so it is late by a sweep at most."""
    return f"date: {email.utils.formatdate(time.time(), usegmt=True)}\r\n".encode("ascii")


def own_names() -> tuple[str, ...]:
    """What this machine is called, alone and on the local link."""
    name = socket.gethostname()
    first = name.partition(".")[0]
    return (name, first, f"{first}.local") if first else ()


def remove_file(path: str) -> None:
    Path(path).unlink(missing_ok=True)


def remove_stale_socket(path: Path) -> None:
    """A socket that a killed agent left behind; anything else in the way is an error. Raises FileExistsError."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(f"{path} exists and is not a socket; choose another path")
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.connect(str(path))
    except OSError:
        path.unlink(missing_ok=True)
    else:
        raise FileExistsError(f"another agent listens on {path}; stop it with `covey down`")
    finally:
        probe.close()

"""The keeper's enrolment port: open only while an invitation is outstanding, silent to whoever holds no token.

Bounds: one small request a connection, ENROL_TIMEOUT_S for all of it, few connections at once and fewer from one
address, so that somebody who sends slowly holds nothing up for others. A key may be certified more than once, by
different tokens: that is how a machine renews its certificate, its id stays the same; a removed machine's key never
is. Not here: what the messages prove (enrolment_messages.py), when a token is used up (core/invitation.py).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable

from covey_mesh.core.invitation import Refusal
from covey_mesh.core.names import NodeId
from covey_mesh.io.certificates import CertificateError, cert_to_pem, id_of, key_of_request, sign_node
from covey_mesh.io.enrolment_messages import (
    MESSAGE_BYTES_MAX,
    PEERS_MAX,
    EnrolmentMessageError,
    Reply,
    claimed_token_id,
    open_request,
    printable,
    seal_reply,
)
from covey_mesh.io.identity import Identity, load_authority
from covey_mesh.io.invitations import Invitations
from covey_mesh.io.state_files import StateFileError

ENROL_TIMEOUT_S = 5.0
CONNECTIONS_MAX = 32
CONNECTIONS_PER_ADDRESS_MAX = 4
CHECK_INTERVAL_S = 0.5
"""How soon a fresh invitation opens the port, and an expired one closes it."""

_log = logging.getLogger(__name__)


class EnrolmentPort:
    """Runs on a keeper's agent. `peers` gives the link addresses that a new machine should dial first."""

    def __init__(
        self,
        identity: Identity,
        host: str,
        port: int,
        peers: Callable[[], tuple[str, ...]],
        revoked: Callable[[NodeId], bool] = lambda _: False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Raises IdentityError on a machine without the CA key."""
        self._identity = identity
        self._host = host
        self._port = port
        self._peers = peers
        self._revoked = revoked
        self._clock = clock
        self._invitations = Invitations(identity, clock)
        self._server: asyncio.Server | None = None
        self._connections: Counter[str] = Counter()
        self._handlers: set[asyncio.Task[None]] = set()

    @property
    def is_open(self) -> bool:
        return self._server is not None

    async def run(self) -> None:
        """Until cancelled: open and close the port as invitations come and go."""
        try:
            while True:
                await self.check()
                await asyncio.sleep(CHECK_INTERVAL_S)
        finally:
            await self.close()

    async def check(self) -> None:
        """Open or close now. A port that cannot be opened is logged and tried again."""
        try:
            wanted = self._invitations.any_outstanding()
            if wanted and self._server is None:
                self._server = await asyncio.start_server(
                    self._accept, self._host, self._port, limit=MESSAGE_BYTES_MAX + 4, backlog=CONNECTIONS_MAX
                )
                _log.info("enrolment port open", extra={"port": self._port})
            elif not wanted and self._server is not None:
                await self.close()
        except (OSError, StateFileError) as error:
            _log.warning("enrolment port not open", extra={"port": self._port, "reason": str(error)})

    async def close(self) -> None:
        """Nothing is accepted any more; what is under way is cut."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            for handler in list(self._handlers):
                handler.cancel()
            await asyncio.gather(*self._handlers, return_exceptions=True)
            await server.wait_closed()
            _log.info("enrolment port closed", extra={"port": self._port})

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host = str((writer.get_extra_info("peername") or ("?",))[0])
        task = asyncio.current_task()
        assert task is not None
        if len(self._handlers) >= CONNECTIONS_MAX or self._connections[host] >= CONNECTIONS_PER_ADDRESS_MAX:
            writer.transport.abort()
            return
        self._handlers.add(task)
        self._connections[host] += 1
        try:
            async with asyncio.timeout(ENROL_TIMEOUT_S):
                await self._serve(reader, writer, host)
        except (TimeoutError, OSError, EnrolmentMessageError, asyncio.IncompleteReadError, StateFileError) as error:
            _log.info("enrolment refused", extra={"host": host, "reason": type(error).__name__})
        finally:
            self._handlers.discard(task)
            self._connections[host] -= 1
            self._connections += Counter()
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        """Raises EnrolmentMessageError before any byte was sent."""
        length = int.from_bytes(await reader.readexactly(4))
        if length > MESSAGE_BYTES_MAX:
            raise EnrolmentMessageError("too large")
        message = await reader.readexactly(length)
        reply = self._answer(message, host)
        writer.write(len(reply).to_bytes(4) + reply)
        await writer.drain()

    def _answer(self, message: bytes, host: str) -> bytes:
        """Raises EnrolmentMessageError for whoever does not prove to know the token."""
        token_id = claimed_token_id(message)
        invitation = self._invitations.find(token_id)
        if invitation is None:
            raise EnrolmentMessageError("unknown token")
        secret = bytes.fromhex(invitation.secret_hex)
        try:
            request = open_request(message, secret)
        except EnrolmentMessageError:
            self._invitations.count_failure(token_id)
            raise
        try:
            public_key = key_of_request(request.csr_pem.encode())
        except CertificateError as error:
            raise EnrolmentMessageError(str(error)) from error
        node_id = NodeId(id_of(public_key))
        refusal = Refusal.REVOKED if self._revoked(node_id) else self._invitations.use(token_id, node_id)
        if refusal is not None:
            _log.warning("enrolment refused", extra={"host": host, "node_id": node_id, "reason": refusal.value})
            return seal_reply(Reply(refusal=refusal.value), message, secret)
        ca_key, authority = load_authority(self._identity.state_dir)
        certificate = sign_node(ca_key, authority, public_key, self._clock())
        _log.info("machine enrolled", extra={"host": host, "node_id": node_id, "machine": printable(request.name)})
        reply = Reply(
            certificate_pem=cert_to_pem(certificate).decode(),
            ca_certificate_pem=cert_to_pem(authority).decode(),
            pool_name=self._identity.pool_name,
            peers=self._peers()[:PEERS_MAX],
        )
        return seal_reply(reply, message, secret)

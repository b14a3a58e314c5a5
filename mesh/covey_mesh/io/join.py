"""`covey join TOKEN`: ask a keeper for a certificate, check everything that comes back, store it.

Not here: why this is safe (enrolment_messages.py), the keeper's side (enrolment_port.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from covey_mesh.core.invitation import Refusal
from covey_mesh.core.names import is_pool_name, short
from covey_mesh.core.token import Token, decode_token
from covey_mesh.io.certificates import CertificateError, cert_from_pem, check_node, id_of, make_request, pool_id_of
from covey_mesh.io.enrolment_messages import (
    MESSAGE_BYTES_MAX,
    EnrolmentMessageError,
    Reply,
    Request,
    open_reply,
    printable,
    seal_request,
)
from covey_mesh.io.identity import Identity, load, load_or_make_node_key, refuse_if_in_pool, store_membership
from covey_mesh.io.state_files import locked, make_directory
from covey_mesh.io.tls_probe import split_address

CONNECT_TIMEOUT_S = 3.0
EXCHANGE_TIMEOUT_S = 8.0

_REFUSALS = {
    Refusal.EXPIRED.value: "the token has expired: make a new one with `covey invite` on the keeper",
    Refusal.USED.value: (
        "the token was used already. If no machine of yours used it, somebody else joined with it: look at `covey ps` "
        "on the keeper and remove the stranger. Then make a new token with `covey invite`"
    ),
    Refusal.REVOKED.value: (
        "this machine was removed from the pool and its key is not accepted any more: move its state directory away "
        "and join again with a new token, to get a new key"
    ),
}


class JoinError(Exception):
    """The machine did not join; nothing was changed but for its own key. The message says what to do."""


async def join(
    token_text: str,
    state_dir: Path,
    name: str,
    progress: Callable[[str], None] = lambda _: None,
    force: bool = False,
    clock: Callable[[], float] = time.time,
) -> Identity:
    """Enrol this machine. A second try with the same token after a lost answer succeeds: the key is kept.

    Raises TokenError, JoinError, AlreadyInPoolError (unless `force`: leave the other pool), PermissionsError.
    """
    token = decode_token(token_text)
    make_directory(state_dir)
    if not force:
        refuse_if_in_pool(state_dir)
    with locked(state_dir, "identity"):
        key = load_or_make_node_key(state_dir)
    csr_pem = make_request(key).decode()
    request = Request(token.token_id, secrets.token_hex(16), csr_pem, printable(name))
    reply = await _ask_any(token, seal_request(request, token.secret), progress)
    _check(reply, token, id_of(key.public_key()), clock())
    with locked(state_dir, "identity"):
        if not force:
            refuse_if_in_pool(state_dir)
        _forget_other_authority(state_dir, token)
        certificate_pem, ca_pem = reply.certificate_pem.encode(), reply.ca_certificate_pem.encode()
        store_membership(state_dir, reply.pool_name, ca_pem, certificate_pem, reply.peers)
    identity = load(state_dir, clock)
    progress(f"joined pool {identity.pool_name} as {short(identity.node_id)}")
    return identity


async def _ask_any(token: Token, message: bytes, progress: Callable[[str], None]) -> Reply:
    """The first proven reply; raises JoinError with what each address came to."""
    failures = []
    for address in token.addresses:
        progress(f"asking {address}")
        try:
            return open_reply(await _ask(address, message), message, token.secret)
        except ConnectionRefusedError:
            failures.append(f"{address}: nothing listens there")
        except TimeoutError:
            failures.append(f"{address}: no answer in time")
        except (asyncio.IncompleteReadError, ConnectionError):
            failures.append(f"{address}: closed without an answer, as for an unknown token")
        except EnrolmentMessageError:
            failures.append(f"{address}: the answer is not from this pool's keeper, or was changed on its way")
        except (OSError, ValueError) as error:
            failures.append(f"{address}: {error}")
    raise JoinError(
        "could not join: " + "; ".join(failures) + ". Check that covey runs on the keeper (`covey ps` there), that "
        "this machine can reach it, and that the token is neither used nor expired (the port is closed then); a new "
        "one: `covey invite` on the keeper"
    )


async def _ask(address: str, message: bytes) -> bytes:
    """One exchange. Raises OSError, TimeoutError, IncompleteReadError, ValueError."""
    host, port = split_address(address)
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        reader, writer = await asyncio.open_connection(host, port, limit=MESSAGE_BYTES_MAX + 4)
    try:
        async with asyncio.timeout(EXCHANGE_TIMEOUT_S):
            writer.write(len(message).to_bytes(4) + message)
            length = int.from_bytes(await reader.readexactly(4))
            if length > MESSAGE_BYTES_MAX:
                raise EnrolmentMessageError("too large")
            return await reader.readexactly(length)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _check(reply: Reply, token: Token, node_id: str, now_s: float) -> None:
    """Raises JoinError. Whoever knew the secret wrote this; the token's pool id still decides who the pool is."""
    if reply.refusal:
        raise JoinError(_REFUSALS.get(reply.refusal, f"the keeper refused ({printable(reply.refusal)})"))
    try:
        authority = cert_from_pem(reply.ca_certificate_pem.encode())
        if pool_id_of(authority) != token.pool_id:
            raise JoinError("the keeper answered with another pool's authority; make a new token on the right keeper")
        certificate = cert_from_pem(reply.certificate_pem.encode())
        if check_node(certificate, authority, now_s) != node_id:
            raise JoinError("the keeper signed another machine's key; make a new token and try again")
    except CertificateError as error:
        raise JoinError(f"the certificate from the keeper is not usable: {error}") from error
    if not is_pool_name(reply.pool_name):
        raise JoinError("the keeper sent no usable pool name; update covey on the older of the two machines")


def _forget_other_authority(state_dir: Path, token: Token) -> None:
    """A machine that leaves its pool by force is no keeper of the new one: the old CA key is kept under another name,
    since it may be the only one."""
    ca_key, ca_certificate = state_dir / "ca.key", state_dir / "ca.crt"
    if not ca_key.exists():
        return
    old_pool = pool_id_of(cert_from_pem(ca_certificate.read_bytes()))
    if old_pool != token.pool_id:
        ca_key.rename(state_dir / f"ca-{short(old_pool)}.key")
        (state_dir / f"ca-{short(old_pool)}.crt").write_bytes(ca_certificate.read_bytes())

"""Who this machine is: its key, its certificate and its pool's authority, kept in the state directory.

Files: node.key (0600) and node.crt; ca.crt; ca.key (0600) on keepers, the machines that may invite others;
pool.json (the pool's name, addresses of first peers). node.crt is written last: its presence means that the machine
belongs to a pool. The id is computed from the key, never read from a name. Keys never leave the machine.

Renewal: a keeper signs its own certificate anew when it loads less than 30 days before the end. Another machine
joins again with a fresh token before its year is over; its key and therefore its id stay the same.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from covey_mesh.core.names import NodeId, PoolId, is_pool_name
from covey_mesh.io import certificates as x
from covey_mesh.io.state_files import (
    PUBLIC_MODE,
    SECRET_MODE,
    PermissionsError,
    locked,
    make_directory,
    read_secret,
    write_atomically,
)

PEER_HINTS_MAX = 32
_DAY_S = 86_400.0


class IdentityError(Exception):
    """This machine has no usable identity; the message says what to do."""


class NotInitialisedError(IdentityError):
    """The state directory belongs to no pool yet."""


class AlreadyInPoolError(IdentityError):
    """The state directory belongs to a pool already."""


class MismatchError(IdentityError):
    """Key, certificate and authority do not belong together."""


class ExpiredError(IdentityError):
    """The certificate's time is over, or has not come by this machine's clock."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Everything a link needs to prove and to check. PEM bytes; the key is kept out of `repr`."""

    node_id: NodeId
    pool_id: PoolId
    pool_name: str
    certificate_pem: bytes
    key_pem: bytes = field(repr=False)
    ca_certificate_pem: bytes
    expires_at_unix_s: float
    state_dir: Path
    keeper: bool
    """True where the pool's CA key is: this machine may invite others."""
    peer_hints: tuple[str, ...] = ()
    """HOST:PORT of link listeners, learned when joining: where to dial before anything is discovered."""


def create_pool(state_dir: Path, pool_name: str, clock: Callable[[], float] = time.time) -> Identity:
    """A new pool with this machine as its first member and keeper. Raises IdentityError, PermissionsError."""
    if not is_pool_name(pool_name):
        raise IdentityError(f"{pool_name!r} cannot be a pool's name: use 1 to 32 of a-z, 0-9 and -, for example office")
    make_directory(state_dir)
    with locked(state_dir, "identity"):
        refuse_if_in_pool(state_dir)
        ca_key, now_s = x.new_key(), clock()
        authority = x.make_authority(ca_key, now_s)
        key = load_or_make_node_key(state_dir)
        certificate = x.sign_node(ca_key, authority, key.public_key(), now_s)
        write_atomically(state_dir / "ca.key", x.key_to_pem(ca_key), SECRET_MODE)
        store_membership(state_dir, pool_name, x.cert_to_pem(authority), x.cert_to_pem(certificate), ())
    return load(state_dir, clock)


def store_membership(
    state_dir: Path, pool_name: str, ca_pem: bytes, certificate_pem: bytes, peers: tuple[str, ...]
) -> None:
    """Everything but the keys; the certificate last, so that a crash in between leaves no half membership."""
    pool = {"pool_name": pool_name, "peers": list(peers[:PEER_HINTS_MAX])}
    (state_dir / "node.crt").unlink(missing_ok=True)
    write_atomically(state_dir / "ca.crt", ca_pem, PUBLIC_MODE)
    write_atomically(state_dir / "pool.json", json.dumps(pool, indent=2).encode() + b"\n", PUBLIC_MODE)
    write_atomically(state_dir / "node.crt", certificate_pem, PUBLIC_MODE)


def refuse_if_in_pool(state_dir: Path) -> None:
    """Raises AlreadyInPoolError."""
    if (state_dir / "node.crt").exists():
        raise AlreadyInPoolError(
            f"this machine is in a pool already ({state_dir}); to leave it: covey join --force TOKEN, "
            "or move that directory away"
        )


def load_or_make_node_key(state_dir: Path) -> ec.EllipticCurvePrivateKey:
    """The machine's key; made on first use and kept, so that a repeated join asks for the same id."""
    path = state_dir / "node.key"
    try:
        return x.key_from_pem(read_secret(path))
    except FileNotFoundError:
        key = x.new_key()
        write_atomically(path, x.key_to_pem(key), SECRET_MODE)
        return key
    except x.CertificateError as error:
        raise MismatchError(f"{path}: {error}; move it away and run the command again") from error


def load(state_dir: Path, clock: Callable[[], float] = time.time) -> Identity:
    """Read and check the identity kept there. Raises IdentityError (its kinds say what to do), PermissionsError."""
    try:
        key_pem = read_secret(state_dir / "node.key")
        ca_pem, certificate_pem = (state_dir / "ca.crt").read_bytes(), (state_dir / "node.crt").read_bytes()
        pool_name, peers = _read_pool(state_dir / "pool.json")
    except FileNotFoundError as error:
        raise NotInitialisedError(
            f"no pool in {state_dir} yet: run `covey init` to start one, or `covey join TOKEN` to join one"
        ) from error
    except OSError as error:
        raise PermissionsError(f"cannot read {state_dir}: {error.strerror}; run covey as its owner") from error
    identity = _checked(state_dir, key_pem, certificate_pem, ca_pem, pool_name, peers)
    if identity.keeper and identity.expires_at_unix_s - clock() < x.RENEW_BELOW_DAYS * _DAY_S:
        identity = _renewed(identity, clock())
    _refuse_outside_validity(identity, clock())
    return identity


def load_authority(state_dir: Path) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """The pool's signing key and certificate. Raises IdentityError where this machine is no keeper."""
    try:
        key = x.key_from_pem(read_secret(state_dir / "ca.key"))
        certificate = x.cert_from_pem((state_dir / "ca.crt").read_bytes())
    except FileNotFoundError as error:
        raise IdentityError(
            "this machine cannot invite others: it does not hold the pool's CA key. "
            "Run the command on the machine where `covey init` was run"
        ) from error
    except x.CertificateError as error:
        raise MismatchError(f"the CA files in {state_dir}: {error}; restore them from a backup") from error
    if x.id_of(key.public_key()) != x.pool_id_of(certificate):
        raise MismatchError(f"ca.key and ca.crt in {state_dir} do not belong together; restore them from a backup")
    return key, certificate


def _read_pool(path: Path) -> tuple[str, tuple[str, ...]]:
    try:
        pool = json.loads(path.read_bytes())
        name, peers = pool["pool_name"], pool["peers"]
    except (ValueError, KeyError, TypeError) as error:
        raise MismatchError(f"{path} is damaged; join again with `covey join --force TOKEN`") from error
    if not isinstance(name, str) or not is_pool_name(name) or not isinstance(peers, list):
        raise MismatchError(f"{path} is damaged; join again with `covey join --force TOKEN`")
    return name, tuple(p for p in peers[:PEER_HINTS_MAX] if isinstance(p, str))


def _checked(
    state_dir: Path, key_pem: bytes, certificate_pem: bytes, ca_pem: bytes, pool_name: str, peers: tuple[str, ...]
) -> Identity:
    try:
        key, certificate = x.key_from_pem(key_pem), x.cert_from_pem(certificate_pem)
        authority = x.cert_from_pem(ca_pem)
        node_id = x.check_node(certificate, authority, certificate.not_valid_after_utc.timestamp())
        if node_id != x.id_of(key.public_key()):
            raise x.CertificateError("node.crt was made for another key than node.key")
    except x.CertificateError as error:
        raise MismatchError(
            f"the identity in {state_dir} does not fit together: {error}. Restore it from a backup, or move the "
            "directory away and join again"
        ) from error
    return Identity(
        node_id=node_id,
        pool_id=x.pool_id_of(authority),
        pool_name=pool_name,
        certificate_pem=certificate_pem,
        key_pem=key_pem,
        ca_certificate_pem=ca_pem,
        expires_at_unix_s=certificate.not_valid_after_utc.timestamp(),
        state_dir=state_dir,
        keeper=(state_dir / "ca.key").exists(),
        peer_hints=peers,
    )


def _renewed(identity: Identity, now_s: float) -> Identity:
    """Only on a keeper: sign the same key again."""
    ca_key, authority = load_authority(identity.state_dir)
    key = x.key_from_pem(identity.key_pem)
    certificate_pem = x.cert_to_pem(x.sign_node(ca_key, authority, key.public_key(), now_s))
    write_atomically(identity.state_dir / "node.crt", certificate_pem, PUBLIC_MODE)
    return _checked(
        identity.state_dir,
        identity.key_pem,
        certificate_pem,
        identity.ca_certificate_pem,
        identity.pool_name,
        identity.peer_hints,
    )


def _refuse_outside_validity(identity: Identity, now_s: float) -> None:
    for name, pem in (("certificate", identity.certificate_pem), ("pool's CA", identity.ca_certificate_pem)):
        certificate = x.cert_from_pem(pem)
        if now_s < certificate.not_valid_before_utc.timestamp():
            raise ExpiredError(f"this machine's {name} is not valid yet: set the clock (timedatectl) and try again")
        if now_s > certificate.not_valid_after_utc.timestamp():
            raise ExpiredError(
                f"this machine's {name} expired on {certificate.not_valid_after_utc:%Y-%m-%d}: get a fresh token on a "
                "keeper (`covey invite`) and run `covey join --force TOKEN`; the machine keeps its id"
            )

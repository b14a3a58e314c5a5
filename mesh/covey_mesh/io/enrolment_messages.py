"""The two messages of enrolment, and the argument for their safety.

A new machine N holds a token: addresses, pool id P (hash of the authority's key), token id, secret S (128 random
bits, shown once to a person). A keeper K holds the authority's key and S. They talk over plain TCP:

    N -> K   Request: protocol, token id, nonce, signing request, display name;  HMAC(k_up, content)
    K -> N   Reply:   certificate, authority's certificate, pool name, peers -- or a refusal;
                      HMAC(k_down, SHA-256(request) || content)

k_up and k_down come from S by HKDF-SHA256 with different labels. Then, against somebody who reads and changes
everything between N and K:

1. Nothing secret is sent. S appears only inside HMAC keys; N's private key never leaves N; certificates, the signing
   request, names and addresses are public (a listener on the network can read them).
2. He cannot enrol himself: a certificate is signed only for the key in a Request whose HMAC holds, and without S he
   can make none. Changing the key in N's request breaks its HMAC. A request played again yields the same machine's
   certificate again, useless without its private key, and uses nothing up (core/invitation.py).
3. He cannot hand N another authority: the reply's HMAC needs S, it covers the request (with N's nonce), so an answer
   of another exchange does not fit, and N also compares the authority's key with P from the token, checks that the
   certificate was signed by it, and that it is for N's own key.
4. A reply cannot be taken for a request or the other way round: different keys.
5. K answers nothing at all, not one byte, unless the HMAC of a complete request holds: somebody without a token
   learns no more than that a port is open, and the port is open only while an invitation is outstanding.
6. Who steals the token before it is used can join in N's place: N is then told that the token was used, and that this
   means a thief if nobody else had it. Tokens are for one use and for an hour unless asked for otherwise.

He can always prevent enrolment (cut the connection); bounds on size, time, connections and failed tries keep him from
more. Not here: sockets (enrolment_port.py, join.py), the rules of use (core/invitation.py).
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

MESSAGE_BYTES_MAX = 16 * 1024
MAC_BYTES = 32
PROTOCOL = 1
NAME_CHARS_MAX = 64
PEERS_MAX = 32

_MAGIC = b"covey-enrol-1\n"
_LABEL_UP = b"covey enrolment 1: request"
_LABEL_DOWN = b"covey enrolment 1: reply"


class EnrolmentMessageError(ValueError):
    """Malformed, too large, or without a valid proof."""


@dataclass(frozen=True, slots=True)
class Request:
    """From the new machine. `csr_pem` holds its public key; `name` is for people and proves nothing."""

    token_id: str
    nonce: str
    csr_pem: str
    name: str
    protocol: int = PROTOCOL


@dataclass(frozen=True, slots=True)
class Reply:
    """From the keeper: either `refusal`, or everything else."""

    certificate_pem: str = ""
    ca_certificate_pem: str = ""
    pool_name: str = ""
    peers: tuple[str, ...] = ()
    refusal: str = ""


_Message = TypeVar("_Message", Request, Reply)


def seal_request(request: Request, secret: bytes) -> bytes:
    """The bytes to send, without the length in front."""
    content = _MAGIC + json.dumps(asdict(request), sort_keys=True).encode()
    return _mac(secret, _LABEL_UP, content) + content


def claimed_token_id(message: bytes) -> str:
    """Which invitation's secret to check the request with; nothing else of it may be used before. Raises
    EnrolmentMessageError."""
    return _parse(message[MAC_BYTES:], Request).token_id


def open_request(message: bytes, secret: bytes) -> Request:
    """Raises EnrolmentMessageError unless the sender knows the secret and the content is whole."""
    content = message[MAC_BYTES:]
    if not hmac.compare_digest(message[:MAC_BYTES], _mac(secret, _LABEL_UP, content)):
        raise EnrolmentMessageError("the proof does not fit")
    return _parse(content, Request)


def seal_reply(reply: Reply, request_message: bytes, secret: bytes) -> bytes:
    """Bound to the one request that it answers."""
    content = _MAGIC + json.dumps(asdict(reply), sort_keys=True).encode()
    return _mac(secret, _LABEL_DOWN, _digest(request_message) + content) + content


def open_reply(message: bytes, request_message: bytes, secret: bytes) -> Reply:
    """Raises EnrolmentMessageError unless it was made with the secret, for this request."""
    content = message[MAC_BYTES:]
    if not hmac.compare_digest(message[:MAC_BYTES], _mac(secret, _LABEL_DOWN, _digest(request_message) + content)):
        raise EnrolmentMessageError("the proof does not fit")
    return _parse(content, Reply)


def printable(name: str) -> str:
    """A display name from somewhere else, fit for a terminal and a log."""
    return "".join(c for c in name[:NAME_CHARS_MAX] if c.isprintable())


def _digest(message: bytes) -> bytes:
    return hashlib.sha256(message).digest()


def _mac(secret: bytes, label: bytes, content: bytes) -> bytes:
    key = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=label).derive(secret)
    return hmac.digest(key, content, "sha256")


def _parse(content: bytes, kind: type[_Message]) -> _Message:
    if not content.startswith(_MAGIC) or len(content) > MESSAGE_BYTES_MAX:
        raise EnrolmentMessageError("not an enrolment message of this version")
    try:
        fields = json.loads(content[len(_MAGIC) :])
    except (ValueError, RecursionError) as error:
        raise EnrolmentMessageError("not readable") from error
    return kind(**_checked(fields, kind))


def _checked(fields: Any, kind: type[Request] | type[Reply]) -> dict[str, Any]:
    """Known fields of the right type; unknown ones are ignored, as on the rest of the wire."""
    if not isinstance(fields, dict):
        raise EnrolmentMessageError("not an object")
    checked: dict[str, Any] = {}
    for name, annotation in kind.__annotations__.items():
        value = fields.get(name)
        if annotation.startswith("tuple"):
            value = tuple(value) if isinstance(value, list) and len(value) <= PEERS_MAX else None
            fits = value is not None and all(isinstance(entry, str) for entry in value)
        else:
            fits = type(value).__name__ == annotation
        if not fits:
            raise EnrolmentMessageError(f"field {name} is missing or of the wrong type")
        checked[name] = value
    return checked

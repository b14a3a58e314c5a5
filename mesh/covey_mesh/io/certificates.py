"""X.509 as covey uses it: one P-256 authority a pool, one short-named certificate a machine.

An id is always computed from a public key (`id_of`); the names inside a certificate repeat it so that TLS libraries
can compare it, and are checked against the key wherever a certificate is read. Not here: files (identity.py) and
who may get a certificate (enrol.py).
"""

from __future__ import annotations

import datetime
import hashlib

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from covey_mesh.core.names import ID_LENGTH, NodeId, PoolId

CA_LIFETIME_DAYS = 3650
NODE_LIFETIME_DAYS = 365
BACKDATED_HOURS = 24
"""Not-before lies this far back: a machine whose clock is behind accepts a fresh certificate."""

RENEW_BELOW_DAYS = 30
"""A keeper signs its own certificate anew when less than this is left."""


class CertificateError(ValueError):
    """A certificate or signing request that covey does not accept; the message says what is wrong with it."""


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh P-256 key from the operating system's generator."""
    return ec.generate_private_key(ec.SECP256R1())


def id_of(public_key: ec.EllipticCurvePublicKey) -> str:
    """First 128 bits, in hex, of SHA-256 over the key's DER SubjectPublicKeyInfo."""
    der = public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()[:ID_LENGTH]


def key_to_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS#8, unencrypted: the file's mode protects it, an agent must start without a person."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def key_from_pem(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Raises CertificateError for anything but a P-256 key."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise CertificateError("not a readable private key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CertificateError("not a P-256 key")
    return key


def cert_to_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def cert_from_pem(pem: bytes) -> x509.Certificate:
    """Raises CertificateError."""
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise CertificateError("not a readable certificate") from error


def public_key_of(certificate: x509.Certificate | x509.CertificateSigningRequest) -> ec.EllipticCurvePublicKey:
    """Raises CertificateError for anything but a P-256 key."""
    try:
        key = certificate.public_key()
    except (ValueError, TypeError) as error:
        raise CertificateError("its public key is not readable") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CertificateError("its key is not a P-256 key")
    return key


def node_id_of(certificate: x509.Certificate) -> NodeId:
    """The machine's id, from the key and never from a name. Raises CertificateError."""
    return NodeId(id_of(public_key_of(certificate)))


def pool_id_of(ca_certificate: x509.Certificate) -> PoolId:
    """The pool's id, from its authority's key. Raises CertificateError."""
    return PoolId(id_of(public_key_of(ca_certificate)))


def dns_name(node_id: str) -> str:
    """What TLS compares when this machine dials a node: the id is the name, so a certificate of the pool that
    belongs to another machine fails in the handshake."""
    return f"{node_id}.covey"


def uri_name(pool_id: str, node_id: str) -> str:
    return f"covey://{pool_id}/{node_id}"


def make_authority(
    key: ec.EllipticCurvePrivateKey, now_unix_s: float, lifetime_days: int = CA_LIFETIME_DAYS
) -> x509.Certificate:
    """The pool's self-signed certificate; it may sign machines and nothing that signs further."""
    subject = _common_name(f"covey pool {id_of(key.public_key())}")
    builder = _builder(subject, subject, key.public_key(), now_unix_s, lifetime_days)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
    return builder.sign(key, hashes.SHA256())


def sign_node(
    ca_key: ec.EllipticCurvePrivateKey,
    ca_certificate: x509.Certificate,
    public_key: ec.EllipticCurvePublicKey,
    now_unix_s: float,
    lifetime_days: int = NODE_LIFETIME_DAYS,
) -> x509.Certificate:
    """A machine's certificate, for both ends of a connection. Every name in it follows from the key."""
    node_id, pool_id = id_of(public_key), pool_id_of(ca_certificate)
    builder = _builder(_common_name(node_id), ca_certificate.subject, public_key, now_unix_s, lifetime_days)
    names = [x509.UniformResourceIdentifier(uri_name(pool_id, node_id)), x509.DNSName(dns_name(node_id))]
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.add_extension(issuer, critical=False).sign(ca_key, hashes.SHA256())


def check_node(certificate: x509.Certificate, ca_certificate: x509.Certificate, now_unix_s: float) -> NodeId:
    """The id of a machine of that pool. Raises CertificateError: wrong pool, names that do not follow from the key,
    or outside its time of validity."""
    try:
        certificate.verify_directly_issued_by(ca_certificate)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise CertificateError("not signed by this pool's authority") from error
    node_id = node_id_of(certificate)
    if uri_name(pool_id_of(ca_certificate), node_id) not in _uris(certificate):
        raise CertificateError("its names do not follow from its key")
    if not is_valid_at(certificate, now_unix_s):
        raise CertificateError("expired or not yet valid; compare the clocks")
    return node_id


def is_valid_at(certificate: x509.Certificate, now_unix_s: float) -> bool:
    return certificate.not_valid_before_utc.timestamp() <= now_unix_s <= certificate.not_valid_after_utc.timestamp()


def make_request(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A signing request (PEM): the public key and proof that its owner holds the private one. It asks for no name."""
    request = x509.CertificateSigningRequestBuilder().subject_name(_common_name("covey node"))
    return request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def key_of_request(pem: bytes) -> ec.EllipticCurvePublicKey:
    """The public key of a signing request whose proof holds; whatever names it asks for are ignored. Raises
    CertificateError."""
    try:
        request = x509.load_pem_x509_csr(pem)
    except ValueError as error:
        raise CertificateError("not a readable signing request") from error
    key = public_key_of(request)
    if not request.is_signature_valid:
        raise CertificateError("the signing request is not signed by its own key")
    return key


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _uris(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now_unix_s: float,
    lifetime_days: int,
) -> x509.CertificateBuilder:
    now = datetime.datetime.fromtimestamp(now_unix_s, datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=BACKDATED_HOURS))
        .not_valid_after(now + datetime.timedelta(days=lifetime_days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _key_usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )

"""Certificates of a stranger: of a pool of its own, and one that carries a real machine's names, signed by itself."""

from __future__ import annotations

import ssl
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from covey_mesh.io.certificates import cert_to_pem, dns_name, key_to_pem, make_authority, new_key, uri_name
from covey_mesh.io.identity import create_pool


@dataclass(frozen=True)
class Credentials:
    """Files with a certificate and its key."""

    certificate: Path
    key: Path


def of_another_pool(folder: Path) -> Credentials:
    """Valid in every respect, in another pool of the same name."""
    folder.mkdir(mode=0o700)
    made = create_pool(folder, "office")
    return Credentials(made.state_dir / "node.crt", made.state_dir / "node.key")


def with_names_of(folder: Path, pool_id: str, node_id: str) -> Credentials:
    """Every name as in the real machine's certificate; key and authority are the stranger's."""
    folder.mkdir(mode=0o700)
    authority_key, key = new_key(), new_key()
    authority = make_authority(authority_key, time.time())
    now = datetime.now(UTC)
    names = [x509.UniformResourceIdentifier(uri_name(pool_id, node_id)), x509.DNSName(dns_name(node_id))]
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node_id)]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )
    made = Credentials(folder / "forged.crt", folder / "forged.key")
    made.certificate.write_bytes(cert_to_pem(builder.sign(authority_key, hashes.SHA256())) + cert_to_pem(authority))
    made.key.write_bytes(key_to_pem(key))
    return made


def client_tls(credentials: Credentials | None, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    """A client that believes any server and shows this certificate, or none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    if credentials is not None:
        context.load_cert_chain(credentials.certificate, credentials.key)
    return context

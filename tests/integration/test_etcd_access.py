"""How the etcd client is let in, or kept out: TLS with a client's certificate, and etcd's own rights."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.support.etcd import EtcdCluster, needs_etcd
from tests.support.polling import wait_until

from covey.config import Configuration
from covey.errors import UserError
from covey.leadership import leadership_source
from covey_mesh.core.leadership_source import OwnElection
from covey_mesh.core.names import NodeId
from covey_mesh.io.etcd_client import EtcdClient, EtcdError, EtcdRefused, EtcdUnavailable, channel_credentials

pytestmark = needs_etcd

KEY = b"covey/test/leader"
TIMEOUT_S = 10.0
"""Of one call: a busy machine's etcd takes its time; nothing here waits for it to pass."""

MACHINE = NodeId("a" * 32)


@dataclass
class Files:
    """PEM files of one CA: its own certificate, and one certificate with its key."""

    ca: Path
    certificate: Path
    key: Path


def make_files(directory: Path) -> Files:
    """A CA, and a certificate for 127.0.0.1 that is good for servers and clients."""
    directory.mkdir()
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test CA")])
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "covey")])
    loopback = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    limits = x509.BasicConstraints(ca=True, path_length=None)
    ca = _builder(issuer, issuer, ca_key).add_extension(limits, critical=True).sign(ca_key, hashes.SHA256())
    certificate = _builder(subject, issuer, key).add_extension(loopback, critical=False).sign(ca_key, hashes.SHA256())
    files = Files(directory / "ca.pem", directory / "certificate.pem", directory / "key.pem")
    files.ca.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    files.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    files.key.write_bytes(key.private_bytes(*form))
    return files


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return x509.CertificateBuilder(
        issuer, subject, key.public_key(), x509.random_serial_number(), now - datetime.timedelta(hours=1),
        now + datetime.timedelta(hours=1),
    )  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return make_files(tmp_path_factory.mktemp("pem") / "ours")


@pytest.fixture(scope="module")
def guarded(files: Files) -> Iterator[EtcdCluster]:
    """One member that wants a client's certificate."""
    flags = (f"--cert-file={files.certificate}", f"--key-file={files.key}")
    with EtcdCluster(1, (*flags, "--client-cert-auth", f"--trusted-ca-file={files.ca}")) as cluster:
        credentials = channel_credentials(files.ca, files.certificate, files.key)
        wait_until(lambda: attempt(cluster, credentials) is None, "etcd answers over TLS")
        yield cluster


def attempt(cluster: EtcdCluster, credentials: grpc.ChannelCredentials | None) -> EtcdError | None:
    """The error of one read, if any."""

    async def read() -> EtcdError | None:
        client = EtcdClient(cluster.endpoints, credentials, TIMEOUT_S)
        try:
            await client.read(KEY)
        except EtcdError as error:
            return error
        finally:
            await client.close()
        return None

    return asyncio.run(read())


def test_all_calls_work_over_mutual_tls(guarded: EtcdCluster, files: Files) -> None:
    async def calls() -> None:
        client = EtcdClient(guarded.endpoints, channel_credentials(files.ca, files.certificate, files.key), TIMEOUT_S)
        lease = await client.grant_lease(59.2)
        assert await client.keep_alive(lease) == 60.0, "whole seconds, rounded up"
        assert await client.take(KEY, MACHINE, lease)
        assert not await client.take(KEY, MACHINE, lease)
        held = await client.read(KEY)
        assert held is not None
        assert (held.node_id, held.lease_id) == (MACHINE, lease)
        assert not await client.changed(KEY, held.read_at, 0.2)
        assert not await client.take_away(KEY, held.revision - 1)
        change = asyncio.ensure_future(client.changed(KEY, held.read_at, TIMEOUT_S))
        assert await client.take_away(KEY, held.revision)
        assert await change
        await client.revoke(lease)
        await client.revoke(lease)
        assert await client.keep_alive(lease) == 0.0
        await client.close()

    asyncio.run(calls())


def test_a_compacted_revision_is_an_error_and_not_silence(guarded: EtcdCluster, files: Files) -> None:
    async def watch() -> None:
        client = EtcdClient(guarded.endpoints, channel_credentials(files.ca, files.certificate, files.key), TIMEOUT_S)
        from aetcd import rpc

        lease = await client.grant_lease(60.0)
        assert await client.take(b"covey/another/leader", MACHINE, lease)
        held = await client.read(b"covey/another/leader")
        assert held is not None
        await client.revoke(lease)
        await rpc.KVStub(client._channel()).Compact(rpc.CompactionRequest(revision=held.read_at + 1))
        try:
            with pytest.raises(EtcdUnavailable):
                await client.changed(b"covey/another/leader", held.read_at - 1, TIMEOUT_S)
        finally:
            await client.close()

    asyncio.run(watch())


@pytest.mark.parametrize("fault", ["no TLS", "no certificate", "another CA"])
def test_who_is_not_let_in_is_told_to_check_its_files(
    guarded: EtcdCluster, files: Files, tmp_path: Path, fault: str
) -> None:
    strange = make_files(tmp_path / "strange")
    credentials = {
        "no TLS": None,
        "no certificate": channel_credentials(files.ca, None, None),
        "another CA": channel_credentials(strange.ca, strange.certificate, strange.key),
    }[fault]
    error = attempt(guarded, credentials)
    assert isinstance(error, EtcdUnavailable)
    print(f"{fault}: {error}; {error.advice}")
    assert "etcd_ca" in error.advice


def test_without_rights_the_advice_names_the_prefix() -> None:
    with EtcdCluster(1) as cluster:
        cluster.leader()
        for path, body in (
            ("auth/user/add", {"name": "root", "password": "root"}),
            ("auth/role/add", {"name": "root"}),
            ("auth/user/grant", {"user": "root", "role": "root"}),
            ("auth/enable", {}),
        ):
            url = f"http://{cluster.endpoints[0]}/v3/{path}"
            urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode())).close()
        error = attempt(cluster, None)
        assert isinstance(error, EtcdRefused)
        assert "covey/" in error.advice


@pytest.mark.parametrize("missing", ["ca", "certificate", "key"])
def test_files_that_cannot_be_read_stop_the_start_with_their_name(files: Files, tmp_path: Path, missing: str) -> None:
    names = {"etcd_ca": files.ca, "etcd_certificate": files.certificate, "etcd_key": files.key}
    names[f"etcd_{missing}"] = tmp_path / "nothing.pem"
    with pytest.raises(UserError, match=r"nothing\.pem"):
        leadership_source(Configuration(etcd_endpoints=("127.0.0.1:1",), **names), "pool")


def test_without_endpoints_the_pool_elects_by_itself() -> None:
    assert isinstance(leadership_source(Configuration(), "pool"), OwnElection)

"""Identity on disk: what is written, what is refused, and what the refusal says."""

from __future__ import annotations

import hashlib
import json
import stat
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from tests.support.links import new_member, new_pool

from covey_mesh.core.names import is_id, is_pool_name
from covey_mesh.io import certificates as x
from covey_mesh.io.identity import (
    AlreadyInPoolError,
    ExpiredError,
    Identity,
    IdentityError,
    MismatchError,
    NotInitialisedError,
    create_pool,
    load,
    load_authority,
)
from covey_mesh.io.invitations import InvitationError, Invitations
from covey_mesh.io.state_files import PermissionsError, write_atomically

DAY_S = 86_400.0


@pytest.fixture
def keeper(tmp_path: Path) -> Identity:
    return new_pool(tmp_path / "keeper")


def test_a_new_pool(keeper: Identity) -> None:
    assert is_id(keeper.node_id)
    assert is_id(keeper.pool_id)
    assert keeper.keeper
    assert load(keeper.state_dir) == keeper


def test_the_id_is_the_hash_of_the_public_key(keeper: Identity) -> None:
    key = x509.load_pem_x509_certificate(keeper.certificate_pem).public_key()
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert keeper.node_id == hashlib.sha256(der).hexdigest()[:32]


def test_modes(keeper: Identity) -> None:
    assert stat.S_IMODE(keeper.state_dir.stat().st_mode) == 0o700
    for name in ("node.key", "ca.key"):
        assert stat.S_IMODE((keeper.state_dir / name).stat().st_mode) == 0o600
    assert not list(keeper.state_dir.glob("*.new")), "nothing temporary is left"


def test_names_in_the_certificate_follow_from_the_keys(keeper: Identity, tmp_path: Path) -> None:
    member = new_member(tmp_path / "member", keeper)
    certificate = x509.load_pem_x509_certificate(member.certificate_pem)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [f"covey://{keeper.pool_id}/{member.node_id}"]
    assert names.get_values_for_type(x509.DNSName) == [f"{member.node_id}.covey"]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert certificate.not_valid_before_utc.timestamp() < time.time() - 3600, "room for a clock that is behind"
    assert not member.keeper
    assert member.pool_id == keeper.pool_id


def test_the_key_is_not_shown(keeper: Identity) -> None:
    assert "PRIVATE" not in repr(keeper)


def test_nothing_there_yet(tmp_path: Path) -> None:
    with pytest.raises(NotInitialisedError, match=r"covey init.*covey join TOKEN"):
        load(tmp_path / "none")


def test_a_second_pool_is_refused(keeper: Identity) -> None:
    with pytest.raises(AlreadyInPoolError, match="--force"):
        create_pool(keeper.state_dir, "another")
    assert load(keeper.state_dir) == keeper


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        *((name, True) for name in ("office", "a", "floor-2", "x" * 32)),
        *((name, False) for name in ("", "-a", "a-", "Office", "a.b", "a b", "x" * 33, "büro")),
    ],
)
def test_pool_names(name: str, fits: bool, tmp_path: Path) -> None:
    assert is_pool_name(name) is fits
    if not fits:
        with pytest.raises(IdentityError, match="a-z"):
            create_pool(tmp_path / "state", name)


def test_a_key_that_others_can_read_is_refused(keeper: Identity) -> None:
    (keeper.state_dir / "node.key").chmod(0o640)
    with pytest.raises(PermissionsError, match="chmod 600"):
        load(keeper.state_dir)


@pytest.mark.parametrize("name", ["node.key", "node.crt", "ca.crt", "pool.json"])
def test_damage_is_told(keeper: Identity, name: str) -> None:
    (keeper.state_dir / name).write_bytes(b"\x00 not what it was")
    with pytest.raises(MismatchError, match=r"join"):
        load(keeper.state_dir)


@pytest.mark.parametrize("name", ["node.key", "node.crt", "ca.crt"])
def test_files_of_another_machine_do_not_fit(keeper: Identity, tmp_path: Path, name: str) -> None:
    other = new_pool(tmp_path / "other")
    write_atomically(keeper.state_dir / name, (other.state_dir / name).read_bytes(), 0o600)
    with pytest.raises(MismatchError, match="does not fit together"):
        load(keeper.state_dir)


def test_an_expired_certificate(keeper: Identity, tmp_path: Path) -> None:
    member = new_member(tmp_path / "member", keeper)
    load(member.state_dir, lambda: time.time() + (x.NODE_LIFETIME_DAYS - 1) * DAY_S)
    with pytest.raises(ExpiredError, match="covey invite"):
        load(member.state_dir, lambda: time.time() + (x.NODE_LIFETIME_DAYS + 1) * DAY_S)
    with pytest.raises(ExpiredError, match="clock"):
        load(member.state_dir, lambda: time.time() - 3 * DAY_S)


def test_a_keeper_renews_its_own_certificate_and_keeps_its_id(keeper: Identity) -> None:
    now_s = time.time() + (x.NODE_LIFETIME_DAYS - 10) * DAY_S
    renewed = load(keeper.state_dir, lambda: now_s)
    assert renewed.node_id == keeper.node_id
    assert renewed.expires_at_unix_s > now_s + (x.NODE_LIFETIME_DAYS - 1) * DAY_S
    assert load(keeper.state_dir, lambda: now_s) == renewed


def test_a_certificate_of_another_authority_is_refused(keeper: Identity, tmp_path: Path) -> None:
    other = new_pool(tmp_path / "other")
    with pytest.raises(x.CertificateError, match="not signed"):
        x.check_node(x.cert_from_pem(other.certificate_pem), x.cert_from_pem(keeper.ca_certificate_pem), time.time())


def test_names_that_do_not_follow_from_the_key_are_refused(keeper: Identity, tmp_path: Path) -> None:
    """As if an authority had signed a certificate in another machine's name."""
    member = new_member(tmp_path / "member", keeper)
    ca_key, authority = load_authority(keeper.state_dir)
    original = x.cert_from_pem(member.certificate_pem)
    builder = x509.CertificateBuilder(
        issuer_name=original.issuer,
        subject_name=original.subject,
        public_key=x.new_key().public_key(),
        serial_number=original.serial_number,
        not_valid_before=original.not_valid_before_utc,
        not_valid_after=original.not_valid_after_utc,
        extensions=list(original.extensions),
    )
    with pytest.raises(x.CertificateError, match="do not follow"):
        x.check_node(builder.sign(ca_key, hashes.SHA256()), authority, time.time())


def test_only_a_keeper_invites(keeper: Identity, tmp_path: Path) -> None:
    member = new_member(tmp_path / "member", keeper)
    with pytest.raises(IdentityError, match="CA key"):
        Invitations(member)


def test_invitations_are_bounded_and_private(keeper: Identity) -> None:
    invitations = Invitations(keeper)
    for _ in range(64):
        made = invitations.create()
    with pytest.raises(InvitationError, match="--revoke-all"):
        invitations.create()
    assert stat.S_IMODE((keeper.state_dir / "invitations.json").stat().st_mode) == 0o600
    assert Invitations(keeper).find(made.token_id) == made, "another process sees it"
    invitations.revoke_all()
    assert not invitations.any_outstanding()
    for ttl_s, uses in ((0, 1), (8 * DAY_S, 1), (60, 0), (60, 257)):
        with pytest.raises(InvitationError, match="up to 7 days"):
            invitations.create(ttl_s, uses)
    assert json.loads((keeper.state_dir / "invitations.json").read_bytes()) == []

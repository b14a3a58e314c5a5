"""The standard pages, and the rules of access."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.support.gateway import A, B, FakeMesh, member

from covey_gateway.core.access import AccessPolicy, Caller, is_own_name
from covey_gateway.core.errors import GatewayError
from covey_gateway.core.keys import KeyRing, bearer_key, key_digest
from covey_gateway.core.pages import Access, PlainRequest
from covey_gateway.io.standard_pages import StandardPages
from covey_mesh.core.facts import EngineState


def pages(*members: Any) -> StandardPages:
    mesh = FakeMesh(*members)
    return StandardPages(mesh.view, lambda: b"covey_up 1\n", 1_700_000_000)


async def fetch(made: StandardPages, path: str) -> dict[str, Any]:
    found = made.routes().find("GET", path)
    assert found is not None
    route, tail = found
    said: dict[str, Any] = json.loads((await route.handler(PlainRequest("GET", path, tail))).body)
    return said


@pytest.mark.asyncio
async def test_models_have_openais_shape_and_name_their_machines() -> None:
    listed = await fetch(pages(member(A, "org/m", "n"), member(B, "org/m")), "/v1/models")
    assert listed["object"] == "list"
    first = next(each for each in listed["data"] if each["id"] == "org/m")
    assert (first["object"], first["owned_by"], first["created"]) == ("model", "covey", 1_700_000_000)
    assert [machine["id"] for machine in first["machines"]] == [A, B]
    assert first["max_model_len"] == 2048


@pytest.mark.asyncio
async def test_one_model_by_its_name_slashes_and_all() -> None:
    made = pages(member(A, "org/m"))
    assert (await fetch(made, "/v1/models/org/m"))["id"] == "org/m"
    assert (await fetch(made, "/v1/models/org%2Fm"))["id"] == "org/m"
    with pytest.raises(GatewayError) as caught:
        await fetch(made, "/v1/models/none")
    assert caught.value.status == 404
    assert "org/m" in caught.value.message


@pytest.mark.asyncio
async def test_ready_only_with_a_model_that_can_be_served() -> None:
    assert (await fetch(pages(member(A, "m")), "/ready"))["status"] == "ready"
    made = pages(member(A, "m", state=EngineState.STARTING))
    with pytest.raises(GatewayError) as caught:
        await fetch(made, "/ready")
    assert (caught.value.status, caught.value.retry_after_s > 0) == (503, True)
    assert (await fetch(made, "/health"))["status"] == "ok"


@pytest.mark.parametrize(
    ("access", "local", "key", "status"),
    [
        (Access.OPEN, False, "", 200),
        (Access.KEYED, True, "", 200),
        (Access.KEYED, False, "", 401),
        (Access.KEYED, False, "wrong", 401),
        (Access.KEYED, False, "secret", 200),
        (Access.LOCAL, True, "", 403),
        (Access.LOCAL, True, "secret", 403),
        (Access.LOCAL, False, "secret", 403),
        (Access.LOCAL, False, "", 403),
    ],
)
def test_access(access: Access, local: bool, key: str, status: int) -> None:
    policy = AccessPolicy(KeyRing({key_digest("secret"): "ada"}))
    caller = Caller(local, False, "localhost", authorization=f"Bearer {key}" if key else "")
    if status == 200:
        assert policy.admit(access, caller) == ("ada" if key and access is Access.KEYED else "")
    else:
        with pytest.raises(GatewayError) as caught:
            policy.admit(access, caller)
        assert caught.value.status == status


def test_administration_is_for_the_unix_socket_alone() -> None:
    policy = AccessPolicy(KeyRing({key_digest("secret"): "ada"}), key_on_loopback=True)
    assert policy.admit(Access.LOCAL, Caller(local=True, unix=True)) == ""


@pytest.mark.parametrize(
    ("authorization", "x_api_key", "key"),
    [
        ("Bearer k", "", "k"),
        ("bearer  k ", "", "k"),
        ("Basic k", "", ""),
        ("Basic k", "x", "x"),
        ("Bearer ", "", ""),
        ("", "x", "x"),
        ("Bearer k", "x", "k"),
    ],
)
def test_where_a_key_is_found(authorization: str, x_api_key: str, key: str) -> None:
    assert bearer_key(authorization, x_api_key) == key


def test_keys_are_known_by_their_digest_alone() -> None:
    ring = KeyRing({key_digest("k1"): "ada", key_digest("k2"): "bob"})
    assert [ring.user_of(key) for key in ("k1", "k2", "k3", "", "k" * 10_000)] == ["ada", "bob", None, None, None]
    with pytest.raises(ValueError, match="64 lower-case hex"):
        KeyRing({"k1": "ada"})


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("localhost:8080", True),
        ("127.0.0.1", True),
        ("[::1]:8080", True),
        ("192.168.1.7:8080", True),
        ("LOCALHOST.", True),
        ("app.localhost", True),
        ("host.docker.internal", True),
        ("evil.local:8080", False),
        ("EVIL.LOCAL.", False),
        ("evil.internal", False),
        ("wpad", False),
        ("evil.example.com", False),
        ("127.0.0.1.evil.example.com", False),
        ("evil-local.com", False),
    ],
)
def test_names_of_this_machine(host: str, own: bool) -> None:
    assert is_own_name(host) is own

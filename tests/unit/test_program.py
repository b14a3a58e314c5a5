"""Small parts of the program: where it is reachable, which models it serves, logs, admin routes, one agent a state."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from covey import logs
from covey.admin import GRACE_MAX_S, AdminRoutes
from covey.config import Configuration
from covey.demo.ports import choose
from covey.errors import ConfigurationError, UserError
from covey.membership import open_or_make
from covey.models import DEMO_FOLDER, DEMO_MODELS, model_specs
from covey.reach import ip_addresses, listen_ip, reachable
from covey.running import only_agent
from covey.security import key_ring
from covey_gateway.core.keys import key_digest
from covey_gateway.core.pages import Access, PlainRequest, PlainResponse
from covey_mesh.core.addresses import InterfaceAddress
from covey_mesh.core.facts import Task
from covey_mesh.wire.v1 import pool_pb2 as wire

LAN = (
    InterfaceAddress("lo", "127.0.0.1", 8, 1, True),
    InterfaceAddress("eth0", "10.0.0.7", 24, 2, True),
    InterfaceAddress("eth0", "fd00::7", 64, 2, True),
    InterfaceAddress("docker0", "172.17.0.1", 16, 3, True),
)


@pytest.mark.parametrize(
    ("listen", "advertise", "expected"),
    [
        ("0.0.0.0:1", (), ("10.0.0.7:9",)),
        ("[::]:1", (), ("10.0.0.7:9", "[fd00::7]:9")),
        ("127.0.0.1:1", (), ("127.0.0.1:9",)),
        ("10.0.0.7:1", (), ("10.0.0.7:9",)),
        ("0.0.0.0:1", ("gpu.example", "fd00::9"), ("gpu.example:9", "[fd00::9]:9")),
    ],
)
def test_reachable(listen: str, advertise: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert reachable(listen, 9, advertise, LAN) == expected


@pytest.mark.parametrize(
    ("listen", "expected"),
    [("0.0.0.0:1", "0.0.0.0"), ("[::]:1", "::"), ("127.0.0.1:1", "127.0.0.1"), ("localhost:1", ""), ("gpu:1", "")],
)
def test_listen_ip(listen: str, expected: str) -> None:
    assert listen_ip(listen) == expected


def test_only_addresses_are_announced_not_names() -> None:
    assert ip_addresses(["gpu.example", "10.0.0.9", "[fd00::9]", "fd00::8"]) == ("10.0.0.9", "fd00::9", "fd00::8")


def weights(folder: Path, **config: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_models_are_named_after_their_directory_or_as_asked(tmp_path: Path) -> None:
    plain = weights(tmp_path / "qwen", architectures=["Qwen3ForCausalLM"])
    vectors = weights(tmp_path / "e5", architectures=["BertModel"])
    specs = model_specs(Configuration(models=(str(plain), f"embedder={vectors}"), context_tokens_max=100))
    assert [(s.name, s.task, s.max_context_tokens) for s in specs] == [
        ("qwen", None, 100),
        ("embedder", Task.EMBED, 100),
    ]


def test_demo_models_are_there() -> None:
    specs = model_specs(Configuration(models=("demo", "demo-embed")))
    assert [s.name for s in specs] == list(DEMO_MODELS.values())
    assert all((DEMO_FOLDER / s.name / "config.json").is_file() for s in specs)
    assert specs[1].task is Task.EMBED


@pytest.mark.parametrize("word", ["/nowhere/at/all", "NAME=/nowhere"])
def test_a_model_that_is_not_there_is_a_users_error(word: str) -> None:
    with pytest.raises(ConfigurationError, match="no model in /nowhere"):
        model_specs(Configuration(models=(word,)))


def test_two_models_of_one_name_are_refused(tmp_path: Path) -> None:
    one, other = weights(tmp_path / "a" / "same"), weights(tmp_path / "b" / "same")
    with pytest.raises(ConfigurationError, match="two models are called same"):
        model_specs(Configuration(models=(str(one), str(other))))


def test_a_simulated_engine_needs_no_directory() -> None:
    (spec,) = model_specs(Configuration(models=("anything",), engine="simulated", simulated_decode_tokens_per_s=7.0))
    assert (spec.name, spec.engine, spec.simulated.decode_tokens_per_s) == ("anything", "simulated", 7.0)


def test_keys_may_be_given_as_digests() -> None:
    ring = key_ring({"alice": "a-key-in-plain-text", "ben": f"sha256:{key_digest('another')}"})
    assert ring.user_of("a-key-in-plain-text") == "alice"
    assert ring.user_of("another") == "ben"
    assert ring.user_of("third") is None
    with pytest.raises(ConfigurationError):
        key_ring({"carl": "sha256:short"})


def record(**extra: object) -> logging.LogRecord:
    made = logging.makeLogRecord({"name": "covey", "levelname": "INFO", "msg": "hello %s", "args": ("you",)})
    made.__dict__.update(extra)
    return made


def test_logs_are_json_objects_with_their_fields() -> None:
    content = json.loads(logs.JsonFormatter().format(record(peer="a", count=3)))
    assert {k: content[k] for k in ("level", "message", "peer", "count")} == {
        "level": "info",
        "message": "hello you",
        "peer": "a",
        "count": 3,
    }


def test_logs_for_people_are_one_line() -> None:
    line = logs.HumanFormatter().format(record(peer="a"))
    assert "hello you  peer=a" in line
    assert "\n" not in line


def test_a_log_line_for_people_stays_one_harmless_line() -> None:
    line = logs.HumanFormatter().format(record(reason="\x1b]0;owned\x07\nWARNING all is lost"))
    assert line.isprintable()


def test_logs_are_quiet_by_default_and_json_away_from_a_terminal() -> None:
    root, ours = logging.getLogger(), logging.getLogger("covey")
    kept = (root.handlers[:], root.level, ours.level)
    stream = io.StringIO()
    try:
        logs.set_up("warning", "auto", stream)
        ours.info("unheard")
        ours.warning("heard")
    finally:
        root.handlers[:], _, _ = kept
        root.setLevel(kept[1])
        for name in ("covey", "covey_mesh", "covey_node", "covey_scheduler", "covey_gateway"):
            logging.getLogger(name).setLevel(kept[2])
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["heard"]


class FakeStatus:
    def snapshot(self) -> wire.GetPoolResponse:
        return wire.GetPoolResponse(pool_name="office")

    async def explain(self, request_id: str) -> wire.ExplainRequestResponse | None:
        return wire.ExplainRequestResponse(request_id=request_id) if request_id == "known" else None


class FakeControls:
    def __init__(self) -> None:
        self.calls: list[object] = []

    def drain(self, draining: bool, grace_s: float | None) -> None:
        self.calls.append(draining if grace_s is None else (draining, grace_s))

    def shut_down(self, grace_s: float | None) -> None:
        self.calls.append(grace_s)

    async def invite(self, valid_minutes: float | None) -> Mapping[str, Any]:
        if valid_minutes == 1:
            raise UserError("no keeper", "ask the keeper")
        return {"token": "t"}

    async def revoke_invitations(self) -> None:
        self.calls.append("revoked")


async def call(controls: FakeControls, method: str, path: str, body: bytes = b"") -> PlainResponse:
    found = AdminRoutes(FakeStatus(), controls).routes().find(method, path)  # type: ignore[arg-type]
    assert found is not None
    route, tail = found
    return await route.handler(PlainRequest(method, path, tail, body=body))


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/covey/v1/pool", b"", 200),
        ("GET", "/covey/v1/explain/known", b"", 200),
        ("GET", "/covey/v1/explain/other", b"", 404),
        ("POST", "/covey/v1/drain", b'{"draining": false}', 200),
        ("POST", "/covey/v1/drain", b'{"draining": true, "grace_s": 3}', 200),
        ("POST", "/covey/v1/drain", b'{"grace_s": -1}', 400),
        ("POST", "/covey/v1/drain", b'{"draining": 1}', 400),
        ("POST", "/covey/v1/drain", b"[", 400),
        ("POST", "/covey/v1/drain", b"[" * 100_000, 400),
        ("POST", "/covey/v1/shutdown", b"[]", 400),
        ("POST", "/covey/v1/shutdown", b'{"grace_s": -1}', 400),
        ("POST", "/covey/v1/shutdown", b'{"grace_s": true}', 400),
        ("POST", "/covey/v1/shutdown", b'{"grace_s": NaN}', 400),
        ("POST", "/covey/v1/shutdown", f'{{"grace_s": {GRACE_MAX_S + 1}}}'.encode(), 400),
        ("POST", "/covey/v1/shutdown", b"", 200),
        ("POST", "/covey/v1/invite", b"{}", 200),
        ("POST", "/covey/v1/revoke-invitations", b"", 200),
        ("POST", "/covey/v1/invite", b'{"valid_minutes": 1}', 409),
    ],
)
async def test_admin_routes(method: str, path: str, body: bytes, status: int) -> None:
    controls = FakeControls()
    response = await call(controls, method, path, body)
    assert response.status == status
    content = json.loads(response.body)
    assert isinstance(content.get("error"), dict) is (status >= 400)
    assert not (controls.calls and status >= 400)


def test_changing_is_for_this_machine_alone() -> None:
    routes = AdminRoutes(FakeStatus(), FakeControls()).routes()  # type: ignore[arg-type]
    for path in ("/covey/v1/drain", "/covey/v1/shutdown", "/covey/v1/invite", "/covey/v1/revoke-invitations"):
        found = routes.find("POST", path)
        assert found is not None
        assert found[0].access is Access.LOCAL


def test_one_agent_a_state_directory(tmp_path: Path) -> None:
    with only_agent(tmp_path), pytest.raises(UserError, match="an agent runs on"), only_agent(tmp_path):
        raise AssertionError("two agents at once")
    with only_agent(tmp_path):
        pass


def test_a_machine_in_no_pool_makes_one_once(tmp_path: Path) -> None:
    identity, made = open_or_make(tmp_path / "state")
    again, made_again = open_or_make(tmp_path / "state")
    assert (made, made_again) == (True, False)
    assert identity.node_id == again.node_id


def test_demo_ports_differ_and_fall_back() -> None:
    found = choose(((0, 0, 0, 0), (0, 0, 0, 0)))
    ports = [word for where in found for word in (where.http, where.grpc, where.link, where.enrol)]
    assert len(set(ports)) == 8
    assert not any(port.endswith(":0") for port in ports)

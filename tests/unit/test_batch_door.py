"""The door to files and batches: routes, users, uploads as a form, and two machines that ask each other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.batches import NOW_S, FakeDoor, line

from covey_gateway.core.batches.settings import BatchSettings
from covey_gateway.core.errors import Code, GatewayError
from covey_gateway.core.pages import PlainRequest
from covey_gateway.io.batches.door import BATCHES, FILES, BatchDoor, whole_body
from covey_gateway.io.batches.library import BatchLibrary
from covey_gateway.io.batches.pages import BatchPages
from covey_gateway.io.batches.peers import PEER_PATH, UNREAD_BYTES_MAX, PeerPort
from covey_gateway.io.batches.runner import BatchRunner
from covey_mesh.core.exchange import Failure, FailureCode, ForwardedRequest, PiecewiseSink, ResponseSink, Upstream
from covey_mesh.core.facts import EngineState, Member, ModelLoad, NodeFacts, NodeLoad, PoolView, Task
from covey_mesh.core.names import NodeId

A, B = NodeId("a" * 32), NodeId("b" * 32)
SETTINGS = BatchSettings(retry_first_s=0.001, full_retry_s=0.01)
BODY_MAX = 64 * 2**20


def shown_by(user: str) -> dict[str, str]:
    """What a client of that name sends."""
    return {"authorization": f"Bearer key-of-{user}"} if user else {}


def user_of(key: str) -> str | None:
    """The keys that both machines know."""
    return key.removeprefix("key-of-") if key in ("key-of-ann", "key-of-ben") else None


class PairMesh:
    """The part of Mesh that the door uses, between two machines of one process."""

    def __init__(self, self_id: NodeId) -> None:
        self.self_id = self_id
        self.ports: dict[NodeId, PeerPort] = {}
        self.reachable = True
        self.opened: list[ForwardedRequest] = []
        self.sinks: list[ResponseSink] = []

    def view(self) -> PoolView:
        load = ModelLoad("m", EngineState.READY, "simulated", Task.GENERATE, 2048, running_limit=8)
        members = {}
        for node_id in (A, B):
            facts = NodeFacts(node_id, f"host-{node_id[0]}", "0", 1, 1)
            members[node_id] = Member(facts, NodeLoad(node_id, 1, 1, (), (load,)), self.reachable)
        return PoolView(self.self_id, members=members)

    def open_on(self, node_id: NodeId, request: ForwardedRequest, sink: ResponseSink) -> Upstream:
        self.opened.append(request)
        self.sinks.append(sink)
        return self.ports[node_id].open(request, sink)


class House:
    """One machine."""

    def __init__(self, folder: Path, node_id: NodeId) -> None:
        self.mesh = PairMesh(node_id)
        self.library = BatchLibrary(folder, node_id, SETTINGS, lambda: NOW_S)
        self.front = FakeDoor()
        self.runner = BatchRunner(self.library, self.front, self.mesh.view)
        self.door = BatchDoor(self.library, self.runner, self.mesh, f"host-{node_id[0]}")  # type: ignore[arg-type]
        self.pages = BatchPages(self.door)
        self.node_asked: list[ForwardedRequest] = []
        self.port = PeerPort(self.door.handle_peer, user_of, self._node)

    def _node(self, request: ForwardedRequest, sink: ResponseSink) -> Upstream:
        self.node_asked.append(request)
        return None  # type: ignore[return-value]

    async def ask(self, method: str, target: str, body: Any = None, user: str = "") -> Any:
        path, _, query = target.partition("?")
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        return await self.answer_of(PlainRequest(method, path, "", query, shown_by(user), content, user))

    async def answer_of(self, request: PlainRequest) -> Any:
        response = await self.door.handle(request)
        answer = json.loads(await whole_body(response, BODY_MAX))
        if response.status != 200:
            raise Refused(response.status, answer["error"]["code"])
        return answer

    async def content(self, file_id: str, user: str = "") -> bytes:
        response = await self.door.handle(
            PlainRequest("GET", f"{FILES}/{file_id}/content", "", "", shown_by(user), b"", user)
        )
        assert response.status == 200
        return await whole_body(response, BODY_MAX)

    async def upload(self, content: bytes, user: str = "") -> str:
        found = await self.door.upload(user, "x.jsonl", "batch", 0, once(content))
        return str(found["id"])

    async def ended(self, batch_id: str, user: str = "") -> Any:
        async with asyncio.timeout(10):
            while True:
                found = await self.ask("GET", f"{BATCHES}/{batch_id}", user=user)
                if found["status"] in ("completed", "failed"):
                    return found
                await asyncio.sleep(0.002)


class Refused(Exception):
    """An error that came as an answer of the other machine."""


async def once(content: bytes) -> AsyncIterator[bytes]:
    yield content


@asynccontextmanager
async def houses(folder: Path) -> AsyncIterator[tuple[House, House]]:
    made = House(folder / "a", A), House(folder / "b", B)
    for house in made:
        house.mesh.ports = {each.mesh.self_id: each.port for each in made}
        assert await house.library.open()
        await house.runner.start()
    try:
        yield made
    finally:
        for house in made:
            await house.port.stop()
            await house.runner.stop(0)
            await house.library.close()


def wish(file_id: str) -> dict[str, str]:
    return {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}


@pytest.mark.asyncio
async def test_the_other_machine_answers_for_what_it_keeps(tmp_path: Path) -> None:
    async with houses(tmp_path) as (a, b):
        file_id = await a.upload(b"".join(line(str(n)) for n in range(5)), "ann")
        made = await b.ask("POST", BATCHES, wish(file_id), "ann")
        done = await b.ended(made["id"], "ann")
        assert (done["status"], done["covey"]["machine"]) == ("completed", "host-a")
        assert len((await b.content(done["output_file_id"], "ann")).splitlines()) == 5
        assert len((await b.ask("GET", f"{BATCHES}/{made['id']}/results?after=2", user="ann"))["data"]) == 3
        assert a.front.requests
        assert not b.front.requests
        assert (await b.ask("DELETE", f"{FILES}/{file_id}", user="ann"))["deleted"]
        with pytest.raises(Refused, match="object_not_found"):
            await b.ask("GET", f"{FILES}/{file_id}", user="ann")
        assert {request.path for request in b.mesh.opened} == {PEER_PATH}


@pytest.mark.asyncio
async def test_users_are_the_same_on_every_machine(tmp_path: Path) -> None:
    async with houses(tmp_path) as (a, b):
        file_id = await a.upload(line("1"), "ann")
        made = await a.ask("POST", BATCHES, wish(file_id), "ann")
        for user in ("ben", ""):
            for method, target in (
                ("GET", f"{FILES}/{file_id}"),
                ("GET", f"{FILES}/{file_id}/content"),
                ("DELETE", f"{FILES}/{file_id}"),
                ("GET", f"{BATCHES}/{made['id']}"),
                ("POST", f"{BATCHES}/{made['id']}/cancel"),
                ("GET", f"{BATCHES}/{made['id']}/results"),
            ):
                with pytest.raises((Refused, GatewayError)) as here:
                    await a.ask(method, target, user=user)
                assert isinstance(here.value, GatewayError)
                assert here.value.status == 404
                with pytest.raises(Refused, match="object_not_found"):
                    await b.ask(method, target, user=user)
            assert (await b.ask("GET", FILES, user=user))["data"] == []
        assert file_id in [each["id"] for each in (await b.ask("GET", FILES, user="ann"))["data"]]
        assert [each["id"] for each in (await b.ask("GET", BATCHES, user="ann"))["data"]] == [made["id"]]


@pytest.mark.asyncio
async def test_a_machine_can_ask_for_nobody_whose_key_it_does_not_have(tmp_path: Path) -> None:
    async with houses(tmp_path) as (a, b):
        of_ann, without_key = await a.upload(b"x", "ann"), await a.upload(b"x")
        for key, path, status in (
            ("", f"{FILES}/{of_ann}", 404),
            ("ann", f"{FILES}/{of_ann}", 403),
            ("key-of-carl", f"{FILES}/{of_ann}", 403),
            ("key-of-ben", f"{FILES}/{of_ann}", 404),
            ("key-of-ann", f"{FILES}/{of_ann}", 200),
            ("", FILES, 200),
            ("", f"{FILES}/{without_key}", 200),
        ):
            sink = Collector()
            question = json.dumps({"method": "GET", "path": path, "query": "", "key": key, "body": ""}).encode()
            a.port.open(ForwardedRequest("r", 1, "", PEER_PATH, question, True, 0, 0), sink)
            await sink.ended.wait()
            assert sink.status == status
            if path == FILES:
                assert json.loads(sink.body) == {"data": []}, "ids are all that protects what has no key"
        unknown = PlainRequest("GET", f"{FILES}/{of_ann}", "", "", shown_by("carl"), b"", "carl")
        with pytest.raises(Refused, match="forbidden"):
            await b.answer_of(unknown)


@pytest.mark.asyncio
async def test_lists_are_of_both_machines_in_pages(tmp_path: Path) -> None:
    async with houses(tmp_path) as (a, b):
        made = {await house.upload(b"x", "ann") for _ in range(4) for house in (a, b)}
        seen: list[str] = []
        for _ in range(4):
            after = f"&after={seen[-1]}" if seen else ""
            found = await a.ask("GET", f"{FILES}?limit=3{after}", user="ann")
            seen += [each["id"] for each in found["data"]]
            assert (found["first_id"], found["last_id"]) == (found["data"][0]["id"], found["data"][-1]["id"])
            if not found["has_more"]:
                break
        assert len(seen) == 8
        assert set(seen) == made
        without_key = await b.upload(b"x")
        assert [each["id"] for each in (await b.ask("GET", FILES))["data"]] == [without_key]
        assert (await a.ask("GET", FILES))["data"] == []
        assert (await a.ask("GET", f"{FILES}/{without_key}"))["id"] == without_key


@pytest.mark.asyncio
async def test_an_owner_that_is_away_is_named(tmp_path: Path) -> None:
    async with houses(tmp_path) as (a, b):
        file_id = await a.upload(b"x")
        b.mesh.reachable = False
        with pytest.raises(GatewayError, match="`host-a`") as caught:
            await b.ask("GET", f"{FILES}/{file_id}")
        assert (caught.value.status, caught.value.code, caught.value.retry_after_s) == (503, Code.OWNER_UNREACHABLE, 5)
        strange = file_id.replace("aaaaaaaa", "cccccccc")
        with pytest.raises(GatewayError, match="cccccccc"):
            await b.ask("GET", f"{FILES}/{strange}")


@pytest.mark.asyncio
async def test_a_link_that_breaks_shows(tmp_path: Path) -> None:
    async with houses(tmp_path) as (a, b):
        file_id = await a.upload(b"x" * 2_000_000)
        response = await b.door.handle(PlainRequest("GET", f"{FILES}/{file_id}/content"))
        assert response.pieces is not None
        await anext(response.pieces)
        await a.port.stop()
        # As the link's end does for every attempt on it.
        b.mesh.sinks[-1].end(Failure(FailureCode.LINK_LOST, "gone"))
        with pytest.raises(GatewayError, match="lost on the way"):
            await whole_body(response, BODY_MAX)


@pytest.mark.asyncio
async def test_a_slow_reader_holds_the_owner_back(tmp_path: Path) -> None:
    async with houses(tmp_path) as (a, b):
        content = bytes(range(256)) * 40_000
        file_id = await a.upload(content)
        response = await b.door.handle(PlainRequest("GET", f"{FILES}/{file_id}/content"))
        pieces: Any = response.pieces
        first = await anext(pieces)
        for _ in range(200):
            await asyncio.sleep(0.001)
        asked: Any = b.mesh.sinks[-1]
        assert asked._held_bytes <= 3 * UNREAD_BYTES_MAX
        rest = b"".join([piece async for piece in pieces])
        assert first + rest == content


@pytest.mark.asyncio
async def test_what_is_no_question_goes_to_the_node_and_nonsense_is_refused(tmp_path: Path) -> None:
    async with houses(tmp_path) as (a, _):
        usual = ForwardedRequest("r", 1, "m", "/v1/embeddings", b"", False, 0, 0)
        a.port.open(usual, Collector())
        assert a.node_asked == [usual]
        for body in (b"", b"[]", b'{"method": 1}', b"\xff"):
            sink = Collector()
            a.port.open(replace(usual, path=PEER_PATH, body=body), sink)
            await sink.ended.wait()
            assert sink.failure is not None
            assert "update covey" in sink.failure.message


class Collector(PiecewiseSink):
    """A ResponseSink."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.status = 0
        self.body = b""
        self.failure: Failure | None = None

    def head(self, status: int, content_type: str, retry_after_s: int = 0) -> None:
        self.status = status

    def data(self, chunk: bytes) -> None:
        self.body += chunk

    def end(self, failure: Failure | None) -> None:
        self.failure = failure
        self.ended.set()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", f"{FILES}/nope", 404),
        ("GET", f"{BATCHES}/nope/cancel", 404),
        ("POST", BATCHES, 400),
        ("PUT", f"{FILES}/ID", 405),
        ("GET", f"{FILES}/ID/else", 405),
        ("POST", f"{BATCHES}/BATCH/else", 404),
        ("GET", f"{BATCHES}/BATCH/cancel", 405),
        ("GET", f"{FILES}?limit=-1", 400),
    ],
)
async def test_wrong_questions(tmp_path: Path, method: str, target: str, status: int) -> None:
    async with houses(tmp_path) as (a, _):
        file_id = await a.upload(line("1"))
        batch_id = (await a.ask("POST", BATCHES, wish(file_id)))["id"]
        with pytest.raises(GatewayError) as caught:
            await a.ask(method, target.replace("ID", file_id).replace("BATCH", batch_id))
        assert caught.value.status == status


# --- the upload form ------------------------------------------------------------------------------------------


def form(*parts: tuple[str, str | None, bytes]) -> bytes:
    found = b""
    for name, filename, content in parts:
        file = "" if filename is None else f'; filename="{filename}"'
        found += f'--XX\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + content + b"\r\n"
    return found + b"--XX--\r\n"


PURPOSE, FILE = ("purpose", None, b"batch"), ("file", "l.jsonl", b"content\r\nof it")


def upload(body: bytes, content_type: str = "multipart/form-data; boundary=XX", step: int = 0) -> PlainRequest:
    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(body), step):
            yield body[at : at + step]

    headers = {"content-type": content_type}
    if step:
        return PlainRequest("POST", FILES, headers=headers, pieces=pieces())
    return PlainRequest("POST", FILES, headers=headers, body=body)


@pytest.mark.asyncio
@pytest.mark.parametrize("step", [0, 1, 7])
@pytest.mark.parametrize("parts", [(PURPOSE, FILE), (FILE, PURPOSE, ("unknown", None, b"x"))])
async def test_a_form_in_any_order(tmp_path: Path, parts: tuple[Any, ...], step: int) -> None:
    async with houses(tmp_path) as (a, _):
        expiry = (("expires_after[anchor]", None, b"created_at"), ("expires_after[seconds]", None, b"3600"))
        made = json.loads((await a.pages.upload(upload(form(*parts, *expiry), step=step))).body)
        assert (made["bytes"], made["filename"], made["purpose"]) == (len(FILE[2]), "l.jsonl", "batch")
        assert made["expires_at"] == NOW_S + 3600
        assert await a.content(made["id"]) == FILE[2]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("body", "param"),
    [
        (form(FILE), "purpose"),
        (form(PURPOSE), "file"),
        (form(FILE, FILE, PURPOSE), "file"),
        (form(FILE, ("purpose", None, b"fun")), "purpose"),
        (form(FILE, ("purpose", None, b"x" * 2000)), None),
        (form(FILE, PURPOSE, ("expires_after[seconds]", None, b"3600")), "expires_after"),
        (form(FILE, PURPOSE)[:-9], None),
        (b"", None),
        (b"--XX\r\nnonsense\r\n\r\n", None),
    ],
)
async def test_a_form_that_is_none_leaves_nothing(tmp_path: Path, body: bytes, param: str | None) -> None:
    async with houses(tmp_path) as (a, _):
        with pytest.raises(GatewayError) as caught:
            await a.pages.upload(upload(body))
        assert (caught.value.status, caught.value.param) == (400, param)
        with pytest.raises(GatewayError, match="form"):
            await a.pages.upload(upload(body, "application/json"))
        assert await a.library.used() == (0, 0)

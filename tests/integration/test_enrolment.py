"""Enrolment over real sockets on loopback: the happy path, every refusal, and a man in the middle."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from tests.support.links import WAIT_S, Machine, connect, new_pool

from covey_mesh.core.invitation import ATTEMPTS_MAX, Invitation
from covey_mesh.core.token import Token, TokenError, decode_token
from covey_mesh.io import enrolment_messages as messages
from covey_mesh.io import enrolment_port
from covey_mesh.io.certificates import make_request, new_key
from covey_mesh.io.enrolment_port import CONNECTIONS_PER_ADDRESS_MAX, EnrolmentPort
from covey_mesh.io.identity import AlreadyInPoolError, Identity, load, load_or_make_node_key
from covey_mesh.io.invitations import Invitations
from covey_mesh.io.join import JoinError, join
from covey_mesh.io.state_files import make_directory


class Keeper:
    """A keeper whose clock the test moves; `check` opens or closes the port as its loop would."""

    def __init__(self, identity: Identity) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            number = free.getsockname()[1]
        self.identity = identity
        self.ahead_s = 0.0
        self.removed: set[str] = set()
        self.address = f"127.0.0.1:{number}"
        self.invitations = Invitations(identity, self.now)
        self.port = EnrolmentPort(
            identity,
            "127.0.0.1",
            number,
            lambda: ("10.0.0.1:7946",),
            revoked=lambda node_id: node_id in self.removed,
            clock=self.now,
        )

    def now(self) -> float:
        return time.time() + self.ahead_s

    async def invite(self, ttl_s: float = 60.0, uses: int = 1, *, via: str = "") -> str:
        invitation = self.invitations.create(ttl_s, uses)
        await self.port.check()
        return self.invitations.token(invitation, (via or self.address,))

    def only(self) -> Invitation:
        [entry] = json.loads((self.identity.state_dir / "invitations.json").read_bytes())
        found = self.invitations.find(entry["token_id"])
        assert found is not None
        return found


@pytest_asyncio.fixture
async def keeper(tmp_path: Path) -> AsyncIterator[Keeper]:
    made = Keeper(new_pool(tmp_path / "keeper"))
    yield made
    await made.port.close()


@pytest.mark.asyncio
async def test_a_machine_joins_and_is_at_home(keeper: Keeper, tmp_path: Path) -> None:
    steps: list[str] = []
    token = await keeper.invite()
    identity = await join(token, tmp_path / "new", "desk-7", steps.append)
    assert identity.pool_id == keeper.identity.pool_id
    assert identity.pool_name == "office"
    assert identity.peer_hints == ("10.0.0.1:7946",)
    assert not identity.keeper
    assert load(tmp_path / "new") == identity
    assert steps[0] == f"asking {keeper.address}"
    near, far = Machine(identity), Machine(keeper.identity)
    await near.start()
    await far.start()
    link, _ = await connect(near, far)
    assert link.peer == keeper.identity.node_id
    await near.transport.close()
    await far.transport.close()


@pytest.mark.asyncio
async def test_the_port_is_open_only_while_somebody_is_invited(keeper: Keeper, tmp_path: Path) -> None:
    await keeper.port.check()
    assert not keeper.port.is_open
    token = await keeper.invite(ttl_s=60)
    assert keeper.port.is_open
    await join(token, tmp_path / "new", "desk")
    await keeper.port.check()
    assert not keeper.port.is_open
    with pytest.raises(JoinError, match=r"nothing listens there.*covey invite"):
        await join(token, tmp_path / "late", "late")
    await keeper.invite(ttl_s=60)
    keeper.ahead_s = 61
    await keeper.port.check()
    assert not keeper.port.is_open


@pytest.mark.asyncio
async def test_a_used_token_warns_of_a_thief(keeper: Keeper, tmp_path: Path) -> None:
    token = await keeper.invite()
    await keeper.invite()
    await join(token, tmp_path / "first", "first")
    with pytest.raises(JoinError, match="somebody else joined"):
        await join(token, tmp_path / "second", "second")
    assert not (tmp_path / "second" / "node.crt").exists()


@pytest.mark.asyncio
async def test_an_expired_token(keeper: Keeper, tmp_path: Path) -> None:
    token = await keeper.invite(ttl_s=10)
    await keeper.invite(ttl_s=1000)
    keeper.ahead_s = 11
    with pytest.raises(JoinError, match="expired"):
        await join(token, tmp_path / "new", "late")


@pytest.mark.asyncio
async def test_two_uses_are_two_machines_and_no_third(keeper: Keeper, tmp_path: Path) -> None:
    token = await keeper.invite(uses=2)
    first, second = await asyncio.gather(join(token, tmp_path / "a", "a"), join(token, tmp_path / "b", "b"))
    assert first.node_id != second.node_id
    with pytest.raises(JoinError, match="used"):
        await join(token, tmp_path / "c", "c")


@pytest.mark.asyncio
async def test_a_lost_answer_can_be_asked_for_again(keeper: Keeper, tmp_path: Path) -> None:
    token = decode_token(await keeper.invite())
    key = _key_in(tmp_path / "new")
    request = messages.Request(token.token_id, "n", make_request(key).decode(), "desk")
    assert await _talk(keeper, messages.seal_request(request, token.secret))
    identity = await join(token.encode(), tmp_path / "new", "desk")
    assert keeper.only().used_by == (identity.node_id,)


@pytest.mark.asyncio
async def test_a_removed_machine_does_not_come_back_with_its_old_key(keeper: Keeper, tmp_path: Path) -> None:
    identity = await join(await keeper.invite(), tmp_path / "new", "desk")
    keeper.removed.add(identity.node_id)
    with pytest.raises(JoinError, match="removed from the pool"):
        await join(await keeper.invite(), tmp_path / "new", "desk", force=True)


@pytest.mark.asyncio
async def test_joining_twice_needs_force_and_keeps_the_id(keeper: Keeper, tmp_path: Path) -> None:
    first = await join(await keeper.invite(), tmp_path / "new", "desk")
    token = await keeper.invite()
    with pytest.raises(AlreadyInPoolError, match="--force"):
        await join(token, tmp_path / "new", "desk")
    again = await join(token, tmp_path / "new", "desk", force=True)
    assert again.node_id == first.node_id
    assert again.certificate_pem != first.certificate_pem


@pytest.mark.asyncio
async def test_a_keeper_that_leaves_its_pool_keeps_the_old_ca_key_aside(keeper: Keeper, tmp_path: Path) -> None:
    other = new_pool(tmp_path / "other", "lab")
    moved = await join(await keeper.invite(), other.state_dir, "desk", force=True)
    assert moved.pool_name == "office"
    assert not moved.keeper
    assert (other.state_dir / f"ca-{other.pool_id[:8]}.key").exists()


@pytest.mark.asyncio
async def test_without_the_secret_there_is_no_byte(keeper: Keeper) -> None:
    token = decode_token(await keeper.invite())
    request = messages.Request(token.token_id, "n", make_request(new_key()).decode(), "thief")
    sealed = messages.seal_request(request, token.secret)
    unknown = messages.seal_request(messages.Request("00" * 8, "n", request.csr_pem, "x"), token.secret)
    attacks = [
        messages.seal_request(request, bytes(16)),
        bytes(32) + sealed[32:],
        sealed[:-1] + b"]",
        sealed.replace(b"thief", b"other"),
        unknown,
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(messages.MESSAGE_BYTES_MAX),
        bytes(32) + b"covey-enrol-1\n" + b"[" * 10_000,
        bytes(32) + b"covey-enrol-1\n" + b'{"token_id": 7}',
    ]
    for attack in attacks:
        assert await _talk(keeper, attack) == b"", attack[:60]
    assert await _raw(keeper, (2**31).to_bytes(4)) == b""
    assert keeper.only().used_by == ()
    assert await _talk(keeper, sealed), "the invitation survived all of it"


@pytest.mark.asyncio
async def test_a_proven_request_with_a_bad_key_gets_nothing(keeper: Keeper) -> None:
    token = decode_token(await keeper.invite())
    for csr in ("", "not a request", make_request(new_key()).decode()[:-60]):
        request = messages.Request(token.token_id, "n", csr, "desk")
        assert await _talk(keeper, messages.seal_request(request, token.secret)) == b""
    assert keeper.only().used_by == ()


@pytest.mark.asyncio
async def test_wrong_proofs_are_counted_and_close_the_invitation(keeper: Keeper, tmp_path: Path) -> None:
    text = await keeper.invite()
    token = decode_token(text)
    request = messages.Request(token.token_id, "n", "", "thief")
    for _ in range(ATTEMPTS_MAX):
        await _talk(keeper, messages.seal_request(request, bytes(16)))
    assert keeper.only().failed_attempts == ATTEMPTS_MAX
    await keeper.port.check()
    assert not keeper.port.is_open


@pytest.mark.asyncio
async def test_slow_senders_hold_nothing_up(keeper: Keeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrolment_port, "ENROL_TIMEOUT_S", 0.3)
    token = await keeper.invite()
    host, port = keeper.address.split(":")
    slow = [await asyncio.open_connection(host, int(port)) for _ in range(CONNECTIONS_PER_ADDRESS_MAX + 3)]
    async with asyncio.timeout(WAIT_S):
        for reader, writer in slow:
            writer.write(b"\x00")
            assert await _rest(reader) == b"", "cut off in time, or at once beyond the bound"
            writer.close()
    assert (await join(token, tmp_path / "new", "desk")).pool_name == "office"


@pytest.mark.asyncio
async def test_a_man_in_the_middle_changes_nothing_unnoticed(keeper: Keeper, tmp_path: Path) -> None:
    async def flip(message: bytes, position: int) -> bytes:
        return message[:position] + bytes([message[position] ^ 1]) + message[position + 1 :]

    for up, position in ((True, 5), (True, 200), (False, 5), (False, 400), (False, -3)):

        async def change(message: bytes, from_new: bool, up: bool = up, position: int = position) -> bytes:
            return await flip(message, position) if from_new is up else message

        async with _middle(keeper, change) as via:
            token = await keeper.invite(via=via)
            with pytest.raises(JoinError, match=r"changed on its way|without an answer"):
                await join(token, tmp_path / "new", "desk")
        assert not (tmp_path / "new" / "node.crt").exists()


@pytest.mark.asyncio
async def test_an_answer_of_another_exchange_does_not_fit(keeper: Keeper, tmp_path: Path) -> None:
    recorded: list[bytes] = []

    async def record(message: bytes, from_new: bool) -> bytes:
        if not from_new:
            recorded.append(message)
            return recorded[0]
        return message

    async with _middle(keeper, record) as via:
        token = await keeper.invite(uses=2, via=via)
        await join(token, tmp_path / "first", "first")
        with pytest.raises(JoinError, match="changed on its way"):
            await join(token, tmp_path / "second", "second")


@pytest.mark.asyncio
async def test_another_pools_keeper_is_refused_even_with_the_secret(keeper: Keeper, tmp_path: Path) -> None:
    """The pool id in the token decides who the pool is, whatever else is proven."""
    token = decode_token(await keeper.invite())
    elsewhere = Token(new_pool(tmp_path / "other").pool_id, token.token_id, token.secret, token.addresses)
    with pytest.raises(JoinError, match="another pool's authority"):
        await join(elsewhere.encode(), tmp_path / "new", "desk")
    assert not (tmp_path / "new" / "node.crt").exists()


@pytest.mark.asyncio
async def test_the_next_address_is_tried(keeper: Keeper, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        closed = f"127.0.0.1:{free.getsockname()[1]}"
    token = decode_token(await keeper.invite())
    both = Token(token.pool_id, token.token_id, token.secret, (closed, *token.addresses))
    assert (await join(both.encode(), tmp_path / "new", "desk")).pool_name == "office"


@pytest.mark.asyncio
async def test_a_mistyped_token_asks_nobody(keeper: Keeper, tmp_path: Path) -> None:
    token = await keeper.invite()
    with pytest.raises(TokenError, match="mistyped"):
        await join(token[:20] + ("A" if token[20] != "A" else "B") + token[21:], tmp_path / "new", "desk")
    assert not (tmp_path / "new").exists()


async def _raw(keeper: Keeper, data: bytes) -> bytes:
    """Everything that comes back for these bytes."""
    host, port = keeper.address.split(":")
    async with asyncio.timeout(WAIT_S):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(data)
        writer.write_eof()
        answer = await _rest(reader)
        writer.close()
    return answer


async def _rest(reader: asyncio.StreamReader) -> bytes:
    """What comes until the end; a reset is an end as well."""
    try:
        return await reader.read()
    except ConnectionError:
        return b""


async def _talk(keeper: Keeper, message: bytes) -> bytes:
    return await _raw(keeper, len(message).to_bytes(4) + message)


def _key_in(state_dir: Path):  # type: ignore[no-untyped-def]
    make_directory(state_dir)
    return load_or_make_node_key(state_dir)


class _middle:
    """A proxy that passes each message through `change(message, from_new_machine)`."""

    def __init__(self, keeper: Keeper, change: Callable[[bytes, bool], Awaitable[bytes]]) -> None:
        self._keeper = keeper
        self._change = change

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = self._keeper.address.split(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        try:
            await self._pass(reader, far_writer, True)
            await self._pass(far_reader, writer, False)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            far_writer.close()
            writer.close()

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, from_new: bool) -> None:
        message = await source.readexactly(int.from_bytes(await source.readexactly(4)))
        changed = await self._change(message, from_new)
        target.write(len(changed).to_bytes(4) + changed)
        await target.drain()


@pytest.mark.asyncio
async def test_the_agents_loop_follows_the_command_line(
    keeper: Keeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrolment_port, "CHECK_INTERVAL_S", 0.01)
    running = asyncio.get_running_loop().create_task(keeper.port.run())
    another_process = Invitations(keeper.identity, keeper.now)
    token = another_process.token(another_process.create(), (keeper.address,))
    async with asyncio.timeout(WAIT_S):
        while not keeper.port.is_open:  # noqa: ASYNC110 - as a person would: the port tells nobody
            await asyncio.sleep(0.01)
        await join(token, tmp_path / "new", "desk")
        while keeper.port.is_open:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

"""A head that a connection remembers: the same request is served without the parser, and nothing else is."""

from __future__ import annotations

import random
from typing import Any

import pytest
from tests.support.gateway import CountingObserver

from covey_gateway.core.front import AnswerHead, ClientSink, IncomingRequest
from covey_gateway.core.keys import KeyRing, key_digest
from covey_gateway.core.pages import Routes
from covey_gateway.core.settings import HttpSettings
from covey_gateway.io import http_head, http_request
from covey_gateway.io.http_connection import HttpConnection
from covey_gateway.io.http_server import HttpServer
from covey_gateway.io.known_head import HEAD_BYTES_MAX, MISSES_MAX
from covey_mesh.io.turn_writer import Turn

KEYS = {key_digest("one"): "ada", key_digest("two"): "bob"}


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.out = b""
        self.closed = False
        self.reading = True

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.out += data

    def writelines(self, pieces: tuple[bytes, ...]) -> None:
        self.write(b"".join(pieces))

    def get_extra_info(self, name: str, default: Any = None) -> tuple[str, int]:
        return ("127.0.0.1", 40_000)

    def set_write_buffer_limits(self, high: int, low: int) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True


class Line:
    """One connection of an edge, played without sockets; each request is answered once `answer` is called."""

    def __init__(self, **settings: Any) -> None:
        self.now_s = 100.0
        self.requests: list[IncomingRequest] = []
        self._sinks: list[ClientSink] = []
        self.server = HttpServer(
            self, KeyRing(KEYS), Routes({}), HttpSettings(**settings), CountingObserver(), lambda: self.now_s
        )
        self.server.turn = Turn(lambda callback: None)
        self.server.date_line = b"date: today\r\n"
        self.wire = Wire()
        made: Any = HttpConnection(self.server, unix=False)
        self.connection = made
        made.connection_made(self.wire)

    def submit(self, request: IncomingRequest, sink: ClientSink) -> Any:
        self.requests.append(request)
        self._sinks.append(sink)
        return None

    def read(self, data: bytes) -> None:
        if not self.wire.closed:
            self.connection.data_received(data)
        self.answer()

    def answer(self) -> None:
        while self._sinks:
            self._sinks.pop(0).whole(AnswerHead(200, "application/json", "req-1"), b"{}")

    def deafen_parser(self) -> None:
        """From now on a request that the parser gets is a failure."""
        self.connection._parser = NoParser()

    @property
    def statuses(self) -> list[int]:
        return [int(part[:3]) for part in self.wire.out.split(b"HTTP/1.1 ")[1:]]


class NoParser:
    def feed_data(self, data: bytes) -> None:
        raise AssertionError(f"parsed: {data[:60]!r}")


def request(body: bytes = b"{}", *headers: str, length: str | None = None, path: str = "/v1/completions") -> bytes:
    declared = f"Content-Length: {len(body)}" if length is None else length
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", *headers, declared, "Accept: */*"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def seen(line: Line) -> list[tuple[str, bytes, str, int | None, float | None]]:
    return [(each.path, each.body, each.user, each.priority, each.deadline_s) for each in line.requests]


def test_the_same_head_is_not_parsed_again_whatever_the_body_and_its_length() -> None:
    line = Line()
    headers = ("Authorization: Bearer one", "x-covey-priority: batch", "x-covey-deadline-ms: 1500")
    line.read(request(b'{"first":1}', *headers))
    line.deafen_parser()
    line.read(request(b'{"second":22}', *headers))
    line.read(request(b"", *headers))
    # As SDKs send it: the head, then the body, here in two pieces.
    whole = request(b'{"third":333}', *headers)
    line.read(whole[:-13])
    assert len(line.requests) == 3
    line.read(whole[-13:-5])
    line.read(whole[-5:])
    bodies = (b'{"first":1}', b'{"second":22}', b"", b'{"third":333}')
    assert seen(line) == [("/v1/completions", body, "ada", 2, 1.5) for body in bodies]
    assert line.statuses == [200] * 4


def test_a_key_that_was_revoked_is_refused_at_the_next_request_of_its_connection() -> None:
    line = Line(key_on_loopback=True)
    for _ in range(2):
        line.read(request(b"{}", "Authorization: Bearer one"))
    line.server.set_keys(KeyRing({key_digest("two"): "bob"}))
    line.read(request(b"{}", "Authorization: Bearer one"))
    assert line.statuses == [200, 200, 401]
    line.read(request(b"{}", "Authorization: Bearer two"))
    assert line.statuses[-1] == 200
    line.server.set_keys(KeyRing({key_digest("two"): "eve"}))
    line.read(request(b"{}", "Authorization: Bearer two"))
    assert [each.user for each in line.requests] == ["ada", "ada", "bob", "eve"]


def test_a_refusal_is_not_remembered() -> None:
    line = Line(key_on_loopback=True)
    for _ in range(2):
        line.read(request(b"{}", "Authorization: Bearer wrong"))
    assert line.connection._known is None
    line.server.set_keys(KeyRing({key_digest("wrong"): "eve"}))
    line.read(request(b"{}", "Authorization: Bearer wrong"))
    assert line.statuses == [401, 401, 200]


def test_two_users_on_one_connection_are_told_apart() -> None:
    line = Line()
    turns = ["one", "one", "two", "one", "two", "two"]
    for key in turns:
        line.read(request(b"{}", f"Authorization: Bearer {key}"))
    assert [each.user for each in line.requests] == ["ada", "ada", "bob", "ada", "bob", "bob"]


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        (b"Host: evil.example.com", 403),
        (b"Host: localhost\r\nOrigin: https://evil.example.com", 403),
        (b"Host: localhost\r\nHost: localhost", 400),
        (b"Host: localhost\r\nTransfer-Encoding: chunked", 400),
        (b"Host: localhost\r\nContent-Length: 2", 400),
        (b"Host: localhost\r\nx-covey-priority: none", 400),
    ],
)
def test_any_other_head_is_checked_like_the_first(changed: bytes, status: int) -> None:
    line = Line()
    line.read(request())
    line.read(request().replace(b"Host: localhost", changed))
    assert line.statuses == [200, status]
    assert len(line.requests) == 1


@pytest.mark.parametrize("value", ["-2", "+2", "2 2", "2,2", "0x2", "2;", "", "99999999999999999999", "\u0662", "2\0"])
def test_only_digits_make_a_length(value: str) -> None:
    line = Line()
    line.read(request())
    line.read(request(length=f"Content-Length: {value}") + request(b'"smuggled"'))
    assert line.statuses[1:] in ([400], [413])
    assert len(line.requests) == 1


def test_limits_of_a_body_hold_for_a_known_head() -> None:
    line = Line(body_bytes_max=100)
    line.read(request(b"1" * 100))
    line.read(request(b"1" * 101))
    assert line.statuses == [200, 413]
    line = Line()
    for size in (2, http_request.SMALL_BODY_BYTES, http_request.SMALL_BODY_BYTES + 1, 200_000, 2):
        line.read(request(b"1" * size))
        assert len(line.requests[-1].body) == size
    assert line.server.bodies.used == 0


def test_a_body_that_stops_coming_is_timed_out_behind_a_known_head_too() -> None:
    line = Line()
    line.read(request(b"{}"))
    line.deafen_parser()
    line.read(request(b"{}")[:-1])
    line.now_s += line.server.settings.body_silence_s + 1
    line.connection.sweep(line.now_s)
    assert line.statuses == [200, 408]
    assert line.wire.closed


def test_requests_behind_a_known_one_in_the_same_read_are_served() -> None:
    line = Line()
    line.read(request(b"0"))
    line.read(request(b"1") + request(b"22") + request(b"333"))
    line.read(request(b"4444")[:-2])
    line.read(b"44" + request(b"5") + request(b"6")[:-1])
    line.read(b"6")
    assert [each.body for each in line.requests] == [b"0", b"1", b"22", b"333", b"4444", b"5", b"6"]


def test_the_head_of_another_request_in_the_same_read_is_not_taken_for_it() -> None:
    line = Line()
    for _ in range(2):
        line.read(request(path="/v1/completionz") + request(path="/v1/completions"))
    line.read(request(path="/v1/completionz"))
    assert line.statuses == [404, 200, 404, 200, 404]


def test_a_known_head_waits_for_its_turn() -> None:
    line = Line()
    line.read(request(b"0"))
    line.connection.data_received(request(b"1"))
    line.connection.data_received(request(b"2"))
    assert len(line.requests) == 2
    line.answer()
    assert [each.body for each in line.requests] == [b"0", b"1", b"2"]


def test_who_expects_to_be_told_to_go_on_is_told_each_time() -> None:
    line = Line()
    for times in (1, 2):
        head = request(b"{}", "Expect: 100-continue")
        line.read(head[:-2])
        assert line.wire.out.count(http_head.CONTINUE) == times
        line.read(head[-2:])
    assert len(line.requests) == 2


def test_a_draining_server_says_so_to_a_known_client() -> None:
    line = Line()
    line.read(request())
    line.server.draining = True
    line.read(request())
    assert line.wire.out.count(b"connection: close\r\n") == 1
    assert line.wire.closed


def test_what_is_remembered_is_bounded() -> None:
    line = Line()
    line.read(request(b"{}", "X-Long: " + "x" * HEAD_BYTES_MAX))
    assert line.connection._known is None
    for number in range(3 * MISSES_MAX):
        line.read(request(b"{}", f"X-Trace: {number}"))
    assert len(line.requests) == 3 * MISSES_MAX + 1
    last = line.connection._known
    line.read(request(b"{}", "X-Trace: other"))
    assert line.connection._known is last, "it goes on remembering what never comes twice"


def test_header_names_are_remembered_up_to_a_bound() -> None:
    made = http_request.HttpRequest(0.0)
    for number in range(2 * http_request.NAMES_MAX):
        made.lines.append((b"X-Name-%d" % number, b"%d" % number))
    made.lines.append((b"X-" + b"y" * 10_000, b"long"))
    made.read_headers()
    assert made.headers["x-name-1000"] == "1000"
    assert made.headers["x-" + "y" * 10_000] == "long"
    assert len(http_request._names) <= http_request.NAMES_MAX
    assert max(map(len, http_request._names)) <= http_request.NAME_BYTES_MAX


# --- whatever comes, the same as from the parser alone ----------------------------------------------------------------


def variant(draw: random.Random, body: bytes) -> bytes:
    """A request that is like the others but for one thing."""
    plain = request(body)
    size = len(body)
    return draw.choice(
        [
            plain,
            request(body, "Authorization: Bearer one"),
            request(body, "Authorization: Bearer two"),
            request(body, "authorization: Bearer two", "x-covey-priority: batch"),
            request(body, "x-covey-priority: nonsense"),
            request(body, "X-A: content-length: 7"),
            request(body, "X-B: 1\r\n content-length: 7"),
            request(body, "Connection: keep-alive"),
            request(body, "Connection: close"),
            request(body, "Expect: 100-continue"),
            request(body, "Accept: a", "Accept: b"),
            request(body, path="/v1/nothing"),
            request(body, path="http://localhost/v1/completions?a=b"),
            request(body, length=f"content-length:{size}"),
            request(body, length=f"Content-Length: {size} "),
            request(body, length=f"Content-Length:\t{size}"),
            request(body, length=f"Content-Length: 0{size}"),
            request(body, length=f"Content-Length: 000000{size}"),
            request(body, length=f"Content-Length: {size}\r\nContent-Length: {size}"),
            request(body, length=f"Content-Length: {size}\r\nTransfer-Encoding: chunked"),
            request(
                b"%x\r\n%b\r\n0\r\n\r\n" % (size, body) if body else b"0\r\n\r\n", length="Transfer-Encoding: chunked"
            ),
            b"\r\n" + plain,
            b"\r\n\r\n" + plain,
            plain.replace(b"Host: localhost", b"Host: evil.example.com"),
            plain.replace(b"Accept: */*\r\n", b"Accept: */*\n"),
            plain.replace(b"HTTP/1.1", b"HTTP/1.0"),
            plain.replace(b"POST", b"post"),
            plain[: draw.randrange(len(plain))],
        ]
    )


def traffic(draw: random.Random) -> bytes:
    lookalike = request(b"{}")
    sent = b""
    for _ in range(draw.randrange(3, 9)):
        body = draw.choice([b"", b"{}", b'{"a":1}', lookalike, b"\r\n\r\n", b"x" * 300])
        sent += request(body) if draw.random() < 0.6 else variant(draw, body)
    return sent


@pytest.mark.parametrize("seed", range(8))
def test_in_any_pieces_it_is_what_the_parser_alone_makes_of_it(seed: int) -> None:
    """The twin gets every byte by itself: it never sees a head in one read, and remembers none."""
    print(f"seed {seed}")
    draw = random.Random(seed)
    used = 0
    for _ in range(60):
        sent = traffic(draw)
        line, twin = Line(), Line()
        at = 0
        while at < len(sent):
            # Often whole requests, as clients send them.
            end = sent.find(b"POST", at + 1) if draw.random() < 0.6 else at + draw.randrange(1, 200)
            end = len(sent) if end <= at else end
            line.read(sent[at:end])
            at = end
        for number in range(len(sent)):
            twin.read(sent[number : number + 1])
        assert twin.connection._known is None
        assert seen(line) == seen(twin), sent
        assert line.wire.out.replace(http_head.CONTINUE, b"") == twin.wire.out.replace(http_head.CONTINUE, b""), sent
        assert line.wire.closed == twin.wire.closed
        used += line.connection._known is not None
    assert used > 20

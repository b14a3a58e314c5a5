"""Attempts on a link without a network: both tables joined by hand, so that every order of events can be played."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from covey_mesh.core.exchange import Failure, FailureCode, ForwardedRequest, PiecewiseSink, ResponseSink
from covey_mesh.core.limits import REQUEST_BODY_BYTES_MAX, STREAM_WINDOW_BYTES, STREAMS_PER_LINK_MAX
from covey_mesh.io.batching import Outbox
from covey_mesh.io.codec_values import PeerProtocolError
from covey_mesh.io.opened import BODY_INLINE_BYTES_MAX, RETRY_AFTER_S_MAX, OpenedAttempts
from covey_mesh.io.served import CONGESTED_BYTES, ServedAttempts
from covey_mesh.wire.v1 import link_pb2
from covey_mesh.wire.v1.link_pb2 import Item

OPENED = {"head", "data", "end"}


class Sink(PiecewiseSink):
    """Remembers the calls of one answer."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.body = b""
        self.failure: Failure | None = None

    def head(self, status: int, content_type: str, retry_after_s: int = 0) -> None:
        self.calls.append(f"head {status} {content_type} {retry_after_s}")

    def data(self, chunk: bytes) -> None:
        self.body += chunk
        self.calls.append("data")

    def end(self, failure: Failure | None) -> None:
        self.failure = failure
        self.calls.append(f"end {failure.code.value if failure else 'well'}")


class Work:
    """An upstream that remembers what was asked of it."""

    def __init__(self, request: ForwardedRequest, sink: ResponseSink) -> None:
        self.request = request
        self.sink = sink
        self.calls: list[str] = []

    def cancel(self) -> None:
        self.calls.append("cancel")

    def pause(self) -> None:
        self.calls.append("pause")

    def resume(self) -> None:
        self.calls.append("resume")


class Wire:
    """Two ends; `deliver` carries everything that waits, both ways, and runs what was put off."""

    def __init__(self) -> None:
        self.near_out, self.far_out = Outbox(), Outbox()
        self.later: list[Callable[[], None]] = []
        self.works: list[Work] = []
        self.near = OpenedAttempts(self.near_out, self.later.append, lambda: None)
        self.far = ServedAttempts(self.far_out, lambda: self.start, lambda: None)

    def start(self, request: ForwardedRequest, sink: ResponseSink) -> Work:
        self.works.append(Work(request, sink))
        return self.works[-1]

    def deliver(self) -> None:
        while self.later or not self.near_out.empty or not self.far_out.empty:
            self.run_later()
            for item in self.near_out.take():
                self.far.receive(item.WhichOneof("kind") or "", item)
            for item in self.far_out.take():
                self.near.receive(item.WhichOneof("kind") or "", item)
            self.far.relieve()

    def run_later(self) -> None:
        calls, self.later = list(self.later), self.later
        self.later.clear()
        for call in calls:
            call()


def request(body: bytes = b"{}") -> ForwardedRequest:
    return ForwardedRequest("r", 3, "m", "/v1/completions", body, True, 7, 9, 1500)


@pytest.fixture
def wire() -> Wire:
    return Wire()


def test_a_request_arrives_as_it_was_sent(wire: Wire) -> None:
    sink = Sink()
    wire.near.open(request(), sink)
    wire.deliver()
    work = wire.works[0]
    assert work.request == request()
    work.sink.head(429, "application/json", 3)
    work.sink.data(b"a")
    work.sink.data(b"b")
    work.sink.end(None)
    wire.deliver()
    assert sink.calls == ["head 429 application/json 3", "data", "end well"]
    assert sink.body == b"ab"
    assert len(wire.near) == len(wire.far) == 0


@pytest.mark.parametrize(
    "size", [0, 1, BODY_INLINE_BYTES_MAX, BODY_INLINE_BYTES_MAX + 1, 1_000_000, REQUEST_BODY_BYTES_MAX]
)
def test_bodies_of_every_size(wire: Wire, size: int) -> None:
    body = bytes(size)
    wire.near.open(request(body), Sink())
    wire.deliver()
    assert [work.request.body for work in wire.works] == [body]


def test_nothing_after_cancel(wire: Wire) -> None:
    sink = Sink()
    upstream = wire.near.open(request(), sink)
    wire.deliver()
    work = wire.works[0]
    work.sink.head(200, "x")
    work.sink.data(b"on its way")
    upstream.cancel()
    wire.deliver()
    work.sink.data(b"late")
    work.sink.end(None)
    wire.deliver()
    assert work.calls == ["cancel"]
    assert sink.calls == []


def test_what_waits_for_an_answer_that_was_cancelled_is_not_sent(wire: Wire) -> None:
    wire.near.open(request(), Sink())
    wire.deliver()
    wire.works[0].sink.head(200, "x")
    wire.works[0].sink.data(bytes(STREAM_WINDOW_BYTES + 1))
    wire.far.receive("cancel", Item(cancel=link_pb2.RequestCancel(stream_id=1)))
    assert wire.far_out.take() == []
    assert wire.far_out.waiting_bytes == 0
    assert not wire.far._waiting


def test_cancel_before_anything_was_written_says_nothing_to_the_peer(wire: Wire) -> None:
    wire.near.open(request(bytes(200_000)), Sink()).cancel()
    assert wire.near_out.take() == []
    wire.deliver()
    assert wire.works == []


def test_cancel_in_the_middle_of_a_body(wire: Wire) -> None:
    upstream = wire.near.open(request(bytes(2_000_000)), Sink())
    for item in wire.near_out.take():
        wire.far.receive(item.WhichOneof("kind") or "", item)
    assert len(wire.far) == 1
    upstream.cancel()
    wire.deliver()
    assert wire.works == []
    assert len(wire.far) == 0


def test_a_paused_reader_pauses_the_source_and_loses_nothing(wire: Wire) -> None:
    sink = Sink()
    upstream = wire.near.open(request(), sink)
    wire.deliver()
    work = wire.works[0]
    upstream.pause()
    work.sink.head(200, "x")
    sent = 0
    while "pause" not in work.calls:
        work.sink.data(bytes([sent % 256]) * 10_000)
        sent += 1
        wire.deliver()
    work.sink.data(b"one more")
    work.sink.end(None)
    wire.deliver()
    assert len(sink.body) == STREAM_WINDOW_BYTES
    upstream.resume()
    wire.deliver()
    assert sink.body == b"".join(bytes([n % 256]) * 10_000 for n in range(sent)) + b"one more"
    assert sink.calls[-1] == "end well"


def test_a_reader_that_keeps_up_gets_an_answer_of_many_windows_without_a_pause(wire: Wire) -> None:
    sink = Sink()
    wire.near.open(request(), sink)
    wire.deliver()
    work = wire.works[0]
    work.sink.head(200, "x")
    for number in range(100):
        work.sink.data(bytes([number]) * (STREAM_WINDOW_BYTES // 10))
        wire.deliver()
    work.sink.end(None)
    wire.deliver()
    assert sink.body == b"".join(bytes([number]) * (STREAM_WINDOW_BYTES // 10) for number in range(100))
    assert (sink.calls[-1], work.calls) == ("end well", [])


def test_whatever_credit_a_peer_promises_no_more_than_a_window_is_on_its_way(wire: Wire) -> None:
    opening = link_pb2.RequestOpen(stream_id=1, initial_credit_bytes=2**32 - 1)
    wire.far.receive("open", Item(open=opening))
    wire.works[0].sink.head(200, "x")
    wire.works[0].sink.data(bytes(2 * STREAM_WINDOW_BYTES))
    sent = [item for _ in range(100) for item in wire.far_out.take()]
    assert sum(len(item.data.chunk) for item in sent) == STREAM_WINDOW_BYTES
    assert wire.works[0].calls == ["pause"]
    wire.far.receive("credit", Item(credit=link_pb2.RequestCredit(stream_id=1, bytes=1000)))
    assert sum(len(item.data.chunk) for item in wire.far_out.take()) == 1000
    wire.far.receive("credit", Item(credit=link_pb2.RequestCredit(stream_id=1, bytes=STREAM_WINDOW_BYTES)))
    assert wire.works[0].calls == ["pause", "resume"], "nothing waits any more"


def test_the_first_bytes_of_an_answer_are_urgent_and_no_others(wire: Wire) -> None:
    wire.near.open(request(), Sink())
    wire.deliver()
    sink = wire.works[0].sink
    sink.head(200, "x")
    assert not wire.far_out.urgent
    sink.data(b"a")
    assert wire.far_out.urgent
    wire.deliver()
    sink.data(b"b")
    assert not wire.far_out.urgent
    sink.end(None)
    assert wire.far_out.urgent


def test_after_its_end_a_source_is_not_heard(wire: Wire) -> None:
    sink = Sink()
    upstream = wire.near.open(request(), sink)
    upstream.pause()
    wire.deliver()
    work = wire.works[0]
    work.sink.head(200, "x")
    work.sink.data(bytes(STREAM_WINDOW_BYTES + 1))
    work.sink.end(None)
    work.sink.data(b"more")
    work.sink.end(Failure(FailureCode.INTERNAL, "once more"))
    wire.deliver()
    upstream.resume()
    wire.deliver()
    assert (len(sink.body), sink.calls[-1]) == (STREAM_WINDOW_BYTES + 1, "end well")
    assert sum(call.startswith("end") for call in sink.calls) == 1
    assert work.calls == ["pause"], "who has ended is not told to go on"
    assert len(wire.far) == 0


def test_a_source_that_is_late_to_pause_time_and_again_is_not_cut_off(wire: Wire) -> None:
    sink = Sink()
    upstream = wire.near.open(request(), sink)
    wire.deliver()
    work = wire.works[0]
    work.sink.head(200, "x")
    sent = 0
    for _ in range(20):
        upstream.pause()
        paused = work.calls.count("pause")
        while work.calls.count("pause") == paused:
            work.sink.data(bytes(STREAM_WINDOW_BYTES // 4))
            sent += STREAM_WINDOW_BYTES // 4
            wire.deliver()
        work.sink.data(bytes(STREAM_WINDOW_BYTES // 4))
        sent += STREAM_WINDOW_BYTES // 4
        upstream.resume()
        wire.deliver()
    assert (len(sink.body), work.calls) == (sent, ["pause", "resume"] * 20)


def test_a_source_that_ignores_pause_is_cut_off_alone(wire: Wire) -> None:
    sink, other = Sink(), Sink()
    wire.near.open(request(), sink).pause()
    wire.near.open(request(), other)
    wire.deliver()
    greedy, good = wire.works
    greedy.sink.head(200, "x")
    for _ in range(100):
        greedy.sink.data(bytes(10_000))
        wire.deliver()
    good.sink.head(200, "x")
    good.sink.end(None)
    wire.deliver()
    assert "cancel" in greedy.calls
    assert sink.failure is not None
    assert sink.failure.code is FailureCode.INTERNAL
    assert other.calls == ["head 200 x 0", "end well"]


def test_congestion_pauses_sources_and_ends(wire: Wire) -> None:
    count = 2 * CONGESTED_BYTES // STREAM_WINDOW_BYTES
    sinks = [Sink() for _ in range(count)]
    for sink in sinks:
        wire.near.open(request(), sink)
    wire.deliver()
    for work in wire.works:
        work.sink.head(200, "x")
        work.sink.data(bytes(STREAM_WINDOW_BYTES))
    assert wire.far_out.waiting_bytes < CONGESTED_BYTES + 2 * STREAM_WINDOW_BYTES
    assert any("pause" in work.calls for work in wire.works)
    wire.deliver()
    assert all(len(sink.body) == STREAM_WINDOW_BYTES for sink in sinks)
    assert all(work.calls in ([], ["pause", "resume"]) for work in wire.works)


def test_the_bound_of_attempts(wire: Wire) -> None:
    for _ in range(STREAMS_PER_LINK_MAX):
        wire.near.open(request(), Sink())
    sink = Sink()
    wire.near.open(request(), sink)
    assert sink.calls == []
    wire.run_later()
    assert sink.failure is not None
    assert sink.failure.code is FailureCode.RESOURCE_EXHAUSTED
    assert sink.failure.retry_after_ms > 0


def test_large_bodies_in_flight_are_bounded_and_room_is_given_back(wire: Wire) -> None:
    near = OpenedAttempts(wire.near_out, wire.later.append, lambda: None, bodies_bytes_max=300_000)
    first = near.open(request(bytes(200_000)), Sink())
    refused = Sink()
    near.open(request(bytes(200_000)), refused)
    wire.run_later()
    assert refused.failure is not None
    assert refused.failure.code is FailureCode.RESOURCE_EXHAUSTED
    first.cancel()
    fine = Sink()
    near.open(request(bytes(200_000)), fine)
    wire.run_later()
    assert fine.calls == []


@pytest.mark.parametrize("ends", ["complete", "cancelled"])
def test_large_bodies_that_are_coming_are_bounded_and_room_is_given_back(wire: Wire, ends: str) -> None:
    far = ServedAttempts(wire.far_out, lambda: wire.start, lambda: None, assembling_bytes_max=300)
    for number in (1, 2):
        far.receive("open", Item(open=link_pb2.RequestOpen(stream_id=number, body_bytes=200)))
    assert [item.end.stream_id for item in wire.far_out.take()] == [2]
    if ends == "complete":
        far.receive("body", Item(body=link_pb2.RequestBody(stream_id=1, chunk=bytes(200))))
    else:
        far.receive("cancel", Item(cancel=link_pb2.RequestCancel(stream_id=1)))
    far.receive("open", Item(open=link_pb2.RequestOpen(stream_id=3, body_bytes=200)))
    assert wire.far_out.empty
    far.cancel_all()
    assert len(far) == 0


def test_the_rest_of_a_body_is_not_sent_to_who_has_answered(wire: Wire) -> None:
    sink = Sink()
    wire.near.open(request(bytes(2_000_000)), sink)
    wire.near_out.take()
    wire.near.receive("head", Item(head=link_pb2.ResponseHead(stream_id=1, status=413)))
    wire.near.receive("end", Item(end=link_pb2.ResponseEnd(stream_id=1)))
    assert sink.calls[-1] == "end well"
    assert wire.near_out.take() == []
    assert wire.near_out.waiting_bytes == 0


def test_the_serving_side_keeps_the_bound_as_well(wire: Wire) -> None:
    for number in range(1, STREAMS_PER_LINK_MAX + 2):
        wire.far.receive("open", Item(open=link_pb2.RequestOpen(stream_id=number)))
    assert len(wire.works) == STREAMS_PER_LINK_MAX
    [refused] = wire.far_out.take()
    assert refused.end.stream_id == STREAMS_PER_LINK_MAX + 1


@pytest.mark.parametrize(
    "items",
    [
        [link_pb2.RequestOpen(stream_id=5), link_pb2.RequestOpen(stream_id=5)],
        [link_pb2.RequestOpen(stream_id=5), link_pb2.RequestOpen(stream_id=4)],
        [link_pb2.RequestOpen(stream_id=0)],
        [link_pb2.RequestOpen(stream_id=1, body_bytes=REQUEST_BODY_BYTES_MAX + 1)],
        [link_pb2.RequestOpen(stream_id=1, model="x" * 5000)],
    ],
    ids=["same id", "lower id", "id 0", "body too large", "name too long"],
)
def test_breaches_of_protocol(wire: Wire, items: list[link_pb2.RequestOpen]) -> None:
    *fine, wrong = items
    for opening in fine:
        wire.far.receive("open", Item(open=opening))
    with pytest.raises(PeerProtocolError):
        wire.far.receive("open", Item(open=wrong))


def test_a_body_longer_than_announced_is_a_breach(wire: Wire) -> None:
    wire.far.receive("open", Item(open=link_pb2.RequestOpen(stream_id=1, body_bytes=10)))
    with pytest.raises(PeerProtocolError):
        wire.far.receive("body", Item(body=link_pb2.RequestBody(stream_id=1, chunk=bytes(11))))


def test_items_of_unknown_streams_are_ignored(wire: Wire) -> None:
    wire.far.receive("body", Item(body=link_pb2.RequestBody(stream_id=9, chunk=b"x")))
    wire.far.receive("cancel", Item(cancel=link_pb2.RequestCancel(stream_id=9)))
    wire.far.receive("credit", Item(credit=link_pb2.RequestCredit(stream_id=9, bytes=5)))
    wire.near.receive("data", Item(data=link_pb2.ResponseData(stream_id=9, chunk=b"x")))
    wire.near.receive("end", Item(end=link_pb2.ResponseEnd(stream_id=9)))
    assert wire.near_out.empty
    assert wire.far_out.empty


NO_ANSWERS = (0, 99, 100, 101, 199, 204, 205, 301, 304, 399, 600, 2**31 - 1)
"""Statuses that no engine's answer has, or that a client reads as the end of a head without a body: what follows
would be taken for another answer on its connection."""


def test_a_wait_of_years_is_not_passed_on(wire: Wire) -> None:
    sink = Sink()
    wire.near.open(request(), sink)
    wire.near.receive("head", Item(head=link_pb2.ResponseHead(stream_id=1, status=429, retry_after_s=2**32 - 1)))
    assert sink.calls == [f"head 429  {RETRY_AFTER_S_MAX}"]


@pytest.mark.parametrize(
    "answer",
    [
        [Item(data=link_pb2.ResponseData(stream_id=1, chunk=b"x"))],
        [Item(head=link_pb2.ResponseHead(stream_id=1, status=200))] * 2,
        [Item(end=link_pb2.ResponseEnd(stream_id=1))],
        [
            Item(head=link_pb2.ResponseHead(stream_id=1, status=200)),
            Item(data=link_pb2.ResponseData(stream_id=1, chunk=bytes(STREAM_WINDOW_BYTES + 1))),
        ],
        *([Item(head=link_pb2.ResponseHead(stream_id=1, status=status))] for status in NO_ANSWERS),
    ],
    ids=["no head", "two heads", "end alone", "beyond the window", *map(str, NO_ANSWERS)],
)
def test_a_mishandled_attempt_fails_alone(wire: Wire, answer: list[Item]) -> None:
    sink, other = Sink(), Sink()
    wire.near.open(request(), sink)
    wire.near.open(request(), other)
    wire.near_out.take()
    for item in answer:
        wire.near.receive(item.WhichOneof("kind") or "", item)
    assert sink.calls[-1] == "end internal"
    assert [item.cancel.stream_id for item in wire.near_out.take()] == [1]
    wire.near.receive("head", Item(head=link_pb2.ResponseHead(stream_id=2, status=200)))
    assert other.calls == ["head 200  0"]


def test_a_lost_link_ends_each_attempt_once(wire: Wire) -> None:
    sinks = [Sink(), Sink()]
    upstreams = [wire.near.open(request(), sink) for sink in sinks]
    wire.deliver()
    wire.near.lose_all("gone")
    assert [sink.calls for sink in sinks] == [[], []], "never from inside the call"
    upstreams[0].cancel()
    wire.run_later()
    wire.far.cancel_all()
    late = Sink()
    wire.near.open(request(), late)
    wire.run_later()
    assert [sink.calls for sink in (*sinks, late)] == [[], ["end link_lost"], ["end link_lost"]]
    assert [work.calls for work in wire.works] == [["cancel"], ["cancel"]]
    assert wire.near_out.empty


def test_without_a_handler_the_attempt_is_refused(wire: Wire) -> None:
    far = ServedAttempts(wire.far_out, lambda: None, lambda: None)
    far.receive("open", Item(open=link_pb2.RequestOpen(stream_id=1)))
    [refused] = wire.far_out.take()
    assert refused.end.failure.code == 1


def test_a_node_that_fails_to_start_one_attempt_goes_on(wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    def broken(request: ForwardedRequest, sink: ResponseSink) -> Work:
        raise RuntimeError("a bug of the node")

    far = ServedAttempts(wire.far_out, lambda: broken, lambda: None)
    far.receive("open", Item(open=link_pb2.RequestOpen(stream_id=1, request_id="r")))
    assert [item.end.stream_id for item in wire.far_out.take()] == [1]
    assert len(far) == 0
    assert "opening an attempt failed" in caplog.text


def test_a_reader_that_fails_stops_the_work_for_it(wire: Wire) -> None:
    class Broken(Sink):
        def data(self, chunk: bytes) -> None:
            raise RuntimeError("a bug of the reader")

    wire.near.open(request(), Broken())
    wire.deliver()
    wire.works[0].sink.head(200, "x")
    wire.works[0].sink.data(b"x")
    wire.deliver()
    assert wire.works[0].calls == ["cancel"]
    assert len(wire.near) == len(wire.far) == 0


def test_a_reader_that_fails_ends_its_own_attempt_only(wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Sink):
        def data(self, chunk: bytes) -> None:
            raise RuntimeError("a bug of the reader")

    fine = Sink()
    wire.near.open(request(), Broken())
    wire.near.open(request(), fine)
    wire.deliver()
    for work in wire.works:
        work.sink.head(200, "x")
        work.sink.data(b"x")
        work.sink.end(None)
    wire.deliver()
    assert fine.calls == ["head 200 x 0", "data", "end well"]
    assert "the reader of an answer failed" in caplog.text

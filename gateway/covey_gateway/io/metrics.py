"""Counters and histograms of requests, coordination and this process, in Prometheus' format.

One registry an agent, never the global one: an agent in a test must not see another's figures. Every label set is
bounded by its source (see covey_gateway.core.observer) and once more here, by LABEL_VALUES_MAX.
"""

from __future__ import annotations

import functools
from bisect import bisect_left
from collections.abc import Callable
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, Histogram, ProcessCollector
from prometheus_client.exposition import generate_latest

from covey_gateway.core.observer import RequestSummary
from covey_gateway.io.pool_metrics import PoolCollector
from covey_gateway.io.tallies import Count, CountFamily, Spread, SpreadFamily
from covey_mesh.core.asking import Answer, Ask, AttemptReport, GrantedWork
from covey_mesh.core.ballot import NO_BALLOT, Ballot
from covey_mesh.core.facts import PoolView
from covey_mesh.core.names import NodeId
from covey_mesh.core.ports import LinkLoss

LABEL_VALUES_MAX = 256
"""Distinct values of one label over a process's life; later ones are counted as "other"."""


_FIRST_TOKEN_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_PER_TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2.5)
_REQUEST_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_LAG_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30)
_GAP_S = (0.1, 0.25, 0.5, 1, 1.5, 2, 3, 5, 10, 30, 60)


SERIES_KNOWN_MAX = 4096
"""Looked-up series that are remembered; all are forgotten beyond."""

_Key = TypeVar("_Key")
_Found = TypeVar("_Found")


class _Bounded:
    """Keeps a label's values to a bound."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def __call__(self, value: str) -> str:
        if value not in self._seen:
            if len(self._seen) >= LABEL_VALUES_MAX:
                return "other"
            self._seen.add(value)
        return value


class _Series:
    """The series of one (path, model, machine), looked up once and not for each request."""

    __slots__ = ("_by_status", "_requests", "output_tokens", "prompt_tokens", "seconds")

    def __init__(
        self, requests: Callable[[str], Count], seconds: Spread, prompt_tokens: Count, output_tokens: Count
    ) -> None:
        self._requests = requests
        self._by_status: dict[int, Count] = {}
        self.seconds = seconds
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens

    def answered(self, status: int) -> Count:
        """HTTP knows some sixty statuses."""
        counter = self._by_status.get(status)
        if counter is None:
            counter = self._by_status[status] = self._requests(str(status))
        return counter


class _StraightSeries:
    """What a request that went straight through adds to."""

    __slots__ = ("answered", "first_token", "output_tokens", "prompt_tokens", "seconds")

    def __init__(self, series: _Series, first_token: Spread) -> None:
        self.answered = series.answered(200)
        self.first_token = first_token
        self.seconds = series.seconds
        self.prompt_tokens = series.prompt_tokens
        self.output_tokens = series.output_tokens


def _remember(known: dict[_Key, _Found], key: _Key, found: _Found) -> None:
    if len(known) >= SERIES_KNOWN_MAX:
        known.clear()
    known[key] = found


class GatewayMetrics:
    """Implements covey_gateway.core.observer.Observer and covey_mesh.core.ports.MeshListener."""

    def __init__(
        self,
        version: str,
        node_id: NodeId,
        view: Callable[[], PoolView],
        queue_lengths: Callable[[], dict[str, int]],
        clock: Callable[[], float],
    ) -> None:
        self.registry = CollectorRegistry()
        self._clock = clock
        self._bounded = _Bounded()
        self._series_known: dict[tuple[str, str, str], _Series] = {}
        self._first_known: dict[tuple[str, str], Spread] = {}
        self._straight_known: dict[tuple[str, str, str], _StraightSeries] = {}
        self._in_flight = 0
        self._leaderless_since: float | None = clock()
        self._had_leader = False
        self._last_ballot = NO_BALLOT
        self._make_request_metrics()
        self._make_coordination_metrics()
        build = Gauge("covey_build_info", "1; the labels say what runs.", ["version", "node"], registry=self.registry)
        build.labels(version, node_id).set(1)
        self.registry.register(PoolCollector(view, queue_lengths))
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def exposition(self) -> bytes:
        """The text of /metrics."""
        return generate_latest(self.registry)

    def _make_request_metrics(self) -> None:
        registry = self.registry
        self._requests = CountFamily(
            "covey_requests", "Requests answered, by final status (499: the client left first).",
            ["path", "model", "status"], registry=registry,
        )  # fmt: skip
        in_flight = Gauge("covey_requests_in_flight", "Requests held by this gateway.", registry=registry)
        in_flight.set_function(lambda: self._in_flight)
        self._lost = Counter(
            "covey_requests_lost", "Requests whose gateway process crashed or hung with them.", registry=registry
        )
        self._seconds = SpreadFamily(
            "covey_request_seconds", "From arrival to the last byte.", ["path", "model"], _REQUEST_S, registry=registry
        )
        self._first_token = SpreadFamily(
            "covey_time_to_first_token_seconds", "From arrival to the first body byte to the client.",
            ["model", "node"], _FIRST_TOKEN_S, registry=registry,
        )  # fmt: skip
        self._per_token = SpreadFamily(
            "covey_time_per_output_token_seconds", "Between tokens of a stream, its mean.",
            ["model", "node"], _PER_TOKEN_S, registry=registry,
        )  # fmt: skip
        self._tokens = CountFamily(
            "covey_tokens", "Tokens of finished requests; kind is prompt or output.",
            ["model", "node", "kind"], registry=registry,
        )  # fmt: skip
        self._attempts = CountFamily("covey_attempts", "Attempts of finished requests.", registry=registry).labels()
        self._retries = Counter(
            "covey_retries", "Attempts repeated elsewhere before the first byte.", ["reason"], registry=registry
        )
        self._continued = Counter(
            "covey_continued", "Streams whose machine failed, by what became of them.", ["outcome"], registry=registry
        )
        self._pauses = Histogram(
            "covey_stream_pause_seconds", "From a stream's break to its first byte from another machine.",
            buckets=_GAP_S, registry=registry,
        )  # fmt: skip
        self._stalls = Counter(
            "covey_stalls", "Answers that fell silent beyond what measured speeds explain.",
            ["model", "node"], registry=registry,
        )  # fmt: skip
        self._circuits = Counter(
            "covey_circuits_opened", "Times that a machine was left alone after stalls.",
            ["model", "node"], registry=registry,
        )  # fmt: skip
        self._cut = Counter("covey_cut_requests", "Requests cut into parts.", ["path"], registry=registry)
        self._parts = Counter(
            "covey_parts", "Parts of cut requests that ended, by status.", ["model", "node", "status"],
            registry=registry,
        )  # fmt: skip
        self._refused = Counter("covey_refused", "Requests refused by this gateway.", ["reason"], registry=registry)
        self._broken = Counter("covey_broken_answers", "Answers that ended incomplete.", ["model"], registry=registry)

    def _make_coordination_metrics(self) -> None:
        registry = self.registry
        self._ask_timeouts = Counter(
            "covey_ask_timeouts", "Asks that the leader did not acknowledge.", registry=registry
        )
        self._alone = Counter(
            "covey_decided_alone", "Machines chosen by this gateway without a leader.", registry=registry
        )
        self._elections = Counter(
            "covey_leader_changes", "Leaders that this machine came to follow or be.", registry=registry
        )
        self._failovers = Counter("covey_failovers", "Leaders lost and replaced by another.", registry=registry)
        self._leaderless = Histogram(
            "covey_leaderless_seconds", "Time without a leader, each time.", buckets=_GAP_S, registry=registry
        )
        self._links_lost = Counter("covey_links_lost", "Links to machines that ended.", ["reason"], registry=registry)
        self._loop_lag = Histogram(
            "covey_event_loop_lag_seconds", "How late this agent's event loop ran a timer, looked at 4 times a second.",
            buckets=_LAG_S, registry=registry,
        )  # fmt: skip

    def loop_lagged(self, seconds: float) -> None:
        """One look of covey_gateway.io.loop_lag."""
        self._loop_lag.observe(seconds)

    def requests_lost(self, count: int) -> None:
        """They ended with the gateway process that held them; no other call speaks of them any more."""
        self._in_flight -= count
        self._lost.inc(count)

    # covey_gateway.core.observer.Observer

    def request_started(self, path: str, model: str) -> None:
        self._in_flight += 1

    def first_byte(self, model: str, node_id: NodeId, seconds: float) -> None:
        first = self._first_known.get((model, node_id))
        if first is None:
            first = self._new_first(model, node_id)
        first.observe(seconds)

    def straight(
        self, path: str, model: str, node_id: NodeId, seconds: float, prompt_tokens: int, output_tokens: int
    ) -> None:
        """Most requests: hence in one piece."""
        series = self._straight_known.get((path, model, node_id))
        if series is None:
            series = self._new_straight(path, model, node_id)
        self._in_flight -= 1
        self._attempts.value += 1
        series.answered.value += 1
        series.prompt_tokens.value += prompt_tokens
        series.output_tokens.value += output_tokens
        first, whole = series.first_token, series.seconds
        first.counts[bisect_left(_FIRST_TOKEN_S, seconds)] += 1
        first.sum += seconds
        whole.counts[bisect_left(_REQUEST_S, seconds)] += 1
        whole.sum += seconds

    def finished(self, summary: RequestSummary) -> None:
        self._in_flight -= 1
        path, node_id = summary.path, summary.node_id or ""
        series = self._series(path, summary.model, node_id)
        series.answered(summary.status).value += 1
        series.seconds.observe(summary.seconds)
        self._count_work(summary, series)
        if summary.broken:
            self._broken.labels(self._bounded(summary.model)).inc()
        if summary.streaming and summary.first_byte_s is not None and summary.output_tokens > 1:
            pace_s = (summary.seconds - summary.first_byte_s) / (summary.output_tokens - 1)
            self._per_token.labels(self._bounded(summary.model), self._bounded(node_id)).observe(pace_s)

    def _series(self, path: str, model: str, node_id: str) -> _Series:
        found = self._series_known.get((path, model, node_id))
        if found is None:
            found = self._new_series(path, model, node_id)
            _remember(self._series_known, (path, model, node_id), found)
        return found

    def _new_series(self, path: str, model: str, node_id: str) -> _Series:
        model, node = self._bounded(model), self._bounded(node_id)
        return _Series(
            functools.partial(self._requests.labels, path, model),
            self._seconds.labels(path, model),
            self._tokens.labels(model, node, "prompt"),
            self._tokens.labels(model, node, "output"),
        )

    def _new_first(self, model: str, node_id: str) -> Spread:
        first = self._first_token.labels(self._bounded(model), self._bounded(node_id))
        _remember(self._first_known, (model, node_id), first)
        return first

    def _new_straight(self, path: str, model: str, node_id: str) -> _StraightSeries:
        first = self._first_token.labels(self._bounded(model), self._bounded(node_id))
        series = _StraightSeries(self._series(path, model, node_id), first)
        _remember(self._straight_known, (path, model, node_id), series)
        return series

    def request_cut(self, path: str, parts: int) -> None:
        self._cut.labels(path).inc()

    def part_finished(self, summary: RequestSummary) -> None:
        model, node = self._bounded(summary.model), self._bounded(summary.node_id or "")
        self._parts.labels(model, node, str(summary.status)).inc()
        self._count_work(summary, self._series(summary.path, summary.model, summary.node_id or ""))

    def _count_work(self, summary: RequestSummary, series: _Series) -> None:
        self._attempts.value += summary.attempts
        series.prompt_tokens.value += summary.prompt_tokens
        series.output_tokens.value += summary.output_tokens

    def retried(self, reason: str) -> None:
        self._retries.labels(reason).inc()

    def stream_broke(self, outcome: str, pause_s: float | None = None) -> None:
        self._continued.labels(outcome).inc()
        if pause_s is not None:
            self._pauses.observe(pause_s)

    def stalled(self, model: str, node_id: NodeId, opened: bool) -> None:
        labels = self._bounded(model), self._bounded(node_id)
        self._stalls.labels(*labels).inc()
        if opened:
            self._circuits.labels(*labels).inc()

    def ask_timed_out(self) -> None:
        self._ask_timeouts.inc()

    def decided_alone(self) -> None:
        self._alone.inc()

    def refused(self, reason: str) -> None:
        self._refused.labels(reason).inc()

    # covey_mesh.core.ports.MeshListener

    def ask_received(self, gateway: NodeId, ask: Ask) -> None:
        pass

    def answer_received(self, leader: NodeId, answer: Answer) -> None:
        pass

    def attempt_reported(self, gateway: NodeId, report: AttemptReport) -> None:
        pass

    def granted_work(self, gateway: NodeId, work: GrantedWork) -> None:
        pass

    def member_changed(self, node_id: NodeId) -> None:
        pass

    def member_lost(self, node_id: NodeId, loss: LinkLoss) -> None:
        self._links_lost.labels(loss.name.lower()).inc()

    def leadership_changed(self, leader: NodeId | None, ballot: Ballot) -> None:
        now_s = self._clock()
        if leader is None:
            self._leaderless_since = now_s if self._leaderless_since is None else self._leaderless_since
            return
        if self._leaderless_since is not None:
            self._leaderless.observe(now_s - self._leaderless_since)
            self._leaderless_since = None
        if ballot == self._last_ballot:
            return
        self._elections.inc()
        if self._had_leader and ballot.node_id != self._last_ballot.node_id:
            self._failovers.inc()
        self._had_leader, self._last_ballot = True, ballot

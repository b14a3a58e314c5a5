"""What a gateway tells its metrics: one call per event of a request, never one per token.

The calls are cheap and must not raise. `path` is one of covey_gateway.core.paths.ENGINE_PATHS, `model` the name of a
model that the pool offers or "" (a client's invention never becomes a label), `reason` one of
covey_gateway.core.errors.Code or a FailureCode's value: every label set is bounded.
"""

from __future__ import annotations

from typing import Protocol

from covey_mesh.core.frozen import frozen
from covey_mesh.core.names import NodeId

CONTINUATIONS = ("resumed", "finished_here", "unsound", "too_long", "refused", "gave_up")
"""What became of a stream that broke. resumed: another machine went on with it. finished_here: only its end was
missing. unsound: continuing would not be right. too_long: more than what is kept of an answer. refused: the other
engine took it for a mistake. gave_up: no machine was found in time."""


@frozen
class RequestSummary:
    """One finished request. Tokens are the engine's own count where the answer carried a usage, else estimates.

    `status` is the one that the client got (499: it left first). `node_id` is None where no machine was involved.
    `chunks` counts the events of a stream, 0 otherwise. `broken` is True where the answer ended incomplete.
    """

    path: str
    model: str
    node_id: NodeId | None
    status: int
    streaming: bool
    seconds: float
    first_byte_s: float | None
    chunks: int
    prompt_tokens: int
    output_tokens: int
    attempts: int
    broken: bool
    continued: int = 0


class Observer(Protocol):
    """Implemented with prometheus-client in covey_gateway.io.metrics."""

    def request_started(self, path: str, model: str) -> None:
        """A request was accepted; `finished` or `straight` follows exactly once."""

    def first_byte(self, model: str, node_id: NodeId, seconds: float) -> None:
        """The first body byte went to the client, `seconds` after the request's arrival."""

    def finished(self, summary: RequestSummary) -> None:
        """The last event of a request."""

    def straight(
        self, path: str, model: str, node_id: NodeId, seconds: float, prompt_tokens: int, output_tokens: int
    ) -> None:
        """The last event of a request that went straight through: what `first_byte` and `finished` say together of a
        whole answer (status 200, no stream) by the first attempt, all of it after `seconds`."""

    def retried(self, reason: str) -> None:
        """An attempt failed before the first byte and another one is made."""

    def stream_broke(self, outcome: str, pause_s: float | None = None) -> None:
        """A stream's machine failed; `outcome` is one of CONTINUATIONS, `pause_s` the client's wait if it resumed."""

    def stalled(self, model: str, node_id: NodeId, opened: bool) -> None:
        """A machine was silent for too long; `opened`: it is left alone for a while now."""

    def ask_timed_out(self) -> None:
        """The leader did not acknowledge an ask in time."""

    def decided_alone(self) -> None:
        """This gateway chose a machine without the leader."""

    def request_cut(self, path: str, parts: int) -> None:
        """A request was cut into so many parts."""

    def part_finished(self, summary: RequestSummary) -> None:
        """A part of a cut request ended. Its `finished` is not called; that of the whole has no tokens or attempts."""

    def refused(self, reason: str) -> None:
        """An edge or the runner refused a request (before or instead of `request_started` where the edge did)."""


class SilentObserver:
    """For tests and for gateways without metrics."""

    def request_started(self, path: str, model: str) -> None:
        pass

    def first_byte(self, model: str, node_id: NodeId, seconds: float) -> None:
        pass

    def finished(self, summary: RequestSummary) -> None:
        pass

    def straight(
        self, path: str, model: str, node_id: NodeId, seconds: float, prompt_tokens: int, output_tokens: int
    ) -> None:
        pass

    def retried(self, reason: str) -> None:
        pass

    def stream_broke(self, outcome: str, pause_s: float | None = None) -> None:
        pass

    def stalled(self, model: str, node_id: NodeId, opened: bool) -> None:
        pass

    def ask_timed_out(self) -> None:
        pass

    def decided_alone(self) -> None:
        pass

    def request_cut(self, path: str, parts: int) -> None:
        pass

    def part_finished(self, summary: RequestSummary) -> None:
        pass

    def refused(self, reason: str) -> None:
        pass

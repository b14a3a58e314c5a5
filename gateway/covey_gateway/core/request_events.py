"""What happens to a request (events) and what is to be done about it (effects). Values only; the rules are request.py.

Effects are run in the order given. Of the events only those that name an attempt can be late; those are dropped when
their attempt is not the current one.
"""

from __future__ import annotations

from covey_gateway.core.errors import GatewayError
from covey_mesh.core.asking import Ask, AttemptReport, Decision
from covey_mesh.core.exchange import Failure
from covey_mesh.core.frozen import frozen
from covey_mesh.core.names import NodeId


@frozen
class RequestFacts:
    """What stays the same over all attempts. Times are readings of the injected clock, in seconds.

    `answer_tokens_most` is what the client allows, 0: what fits. `may_hold_back`: the engine may be silent over many
    tokens (a tool call that is parsed whole). `longest_prompt_tokens`: of several prompts in one request, about the
    longest (what must fit a context); 0: there is one prompt.
    """

    request_id: str
    path: str
    model: str
    streaming: bool
    prompt_tokens: int
    max_output_tokens: int
    arrived_s: float
    prefix_hashes: tuple[int, ...] = ()
    user: str = ""
    priority: int = 1
    deadline_at_s: float | None = None
    answer_tokens_most: int = 0
    may_hold_back: bool = False
    longest_prompt_tokens: int = 0


@frozen
class ModelStanding:
    """What this machine's view says of the model: offered anywhere (`known`), and may it be served soon (`hopeful`).

    `context_tokens`: the largest on any machine that is ready; 0: unknown.
    """

    known: bool
    hopeful: bool
    context_tokens: int = 0
    offered: tuple[str, ...] = ()


# --- events ---------------------------------------------------------------------------------------------------------


@frozen
class Started:
    """The request was accepted; `leader` is the one that this machine granted, None without one."""

    leader: NodeId | None


@frozen
class Granted:
    """In place of Started: the leader has granted a place before. The attempt began `at_s`."""

    leader: NodeId | None
    node_id: NodeId
    decision: Decision
    at_s: float


@frozen
class Assigned:
    attempt: int
    node_id: NodeId
    decision: Decision | None = None


@frozen
class Queued:
    """`blind`: the leader found only machines that it does not reach, and this machine reaches one of them."""

    attempt: int
    decision: Decision | None = None
    blind: bool = False


@frozen
class NoCandidate:
    """`retry_after_ms` 0 from a leader: none ever will. `blind`: see Queued. `in_line`: others of this gateway's
    requests come first; YourTurn follows."""

    attempt: int
    standing: ModelStanding
    decision: Decision | None = None
    retry_after_ms: int = 0
    blind: bool = False
    in_line: bool = False


@frozen
class YourTurn:
    """First in this gateway's own line: try the machines now; also those that were full, where a place has freed."""

    place_freed: bool = False


@frozen
class LeaderChanged:
    leader: NodeId | None


@frozen
class LeaderUnreachable:
    """The ask could not be sent, or the link to the leader is gone, while it still holds the lease."""


@frozen
class LinkedAgain:
    """There is a new link to a machine whose link was lost."""

    node_id: NodeId


@frozen
class UpstreamHead:
    attempt: int
    status: int
    content_type: str
    retry_after_s: int = 0


@frozen
class UpstreamData:
    attempt: int
    chunk: bytes


@frozen
class EngineFault:
    """`relay` met an engine's error event: see `RequestMachine.faulty`."""

    attempt: int


@frozen
class UpstreamEnd:
    attempt: int
    failure: Failure | None


@frozen
class Counted:
    """What CountOn asked for; None where the engine cannot say."""

    attempt: int
    tokens: int | None


@frozen
class ClientGone:
    pass


@frozen
class Tick:
    """Time passed; due at the machine's `wake_at_s`, harmless at any other time."""


Event = (
    Started
    | Granted
    | Assigned
    | Queued
    | NoCandidate
    | YourTurn
    | LeaderChanged
    | LeaderUnreachable
    | LinkedAgain
    | UpstreamHead
    | UpstreamData
    | EngineFault
    | UpstreamEnd
    | Counted
    | ClientGone
    | Tick
)

# --- effects --------------------------------------------------------------------------------------------------------


@frozen
class SendAsk:
    """If it cannot be sent, feed LeaderUnreachable."""

    leader: NodeId
    ask: Ask


@frozen
class DecideAlone:
    """Choose from this machine's own view; feed Assigned or NoCandidate with the ask's attempt."""

    ask: Ask


@frozen
class OpenOn:
    """`body` None: the client's own."""

    node_id: NodeId
    attempt: int
    body: bytes | None = None


@frozen
class CountOn:
    """Ask this machine's engine how many tokens `text` is; feed Counted. Another OpenOn follows."""

    node_id: NodeId
    attempt: int
    text: str


@frozen
class CancelUpstream:
    """Abort the open attempt."""


@frozen
class DeliverHead:
    status: int
    content_type: str
    node_id: NodeId
    retry_after_s: int = 0


@frozen
class DeliverData:
    chunk: bytes


@frozen
class DeliverEnd:
    failure: Failure | None


@frozen
class Refuse:
    """The whole answer is this error."""

    error: GatewayError


@frozen
class Report:
    """Tell `to` (None: whoever leads) what became of an attempt; lost reports do no harm."""

    to: NodeId | None
    report: AttemptReport


@frozen
class AttemptEnded:
    """For the record and the in-flight counts: the open attempt on `node_id` is over. `outcome`: "completed" or why."""

    attempt: int
    node_id: NodeId
    outcome: str


@frozen
class Retried:
    """For metrics: another attempt follows a failed one."""

    reason: str


@frozen
class Continuing:
    """For metrics and log: a stream broke and another machine is sought to go on with it."""

    reason: str


@frozen
class Resumed:
    """A broken stream goes on: its first new bytes, `pause_s` after it broke."""

    node_id: NodeId
    pause_s: float


@frozen
class ContinuationEnded:
    """A broken stream did not go on. `outcome` is one of covey_gateway.core.observer.CONTINUATIONS."""

    outcome: str
    reason: str


@frozen
class Stalled:
    """The machine was silent for longer than its measured speeds explain. `silent_s` 0: it said so itself."""

    node_id: NodeId
    silent_s: float


@frozen
class AskTimedOut:
    """The leader is slow: for metrics, and so that other requests do not wait for it either."""

    leader: NodeId


Effect = (
    SendAsk
    | DecideAlone
    | OpenOn
    | CountOn
    | CancelUpstream
    | DeliverHead
    | DeliverData
    | DeliverEnd
    | Refuse
    | Report
    | AttemptEnded
    | Retried
    | Continuing
    | Resumed
    | ContinuationEnded
    | Stalled
    | AskTimedOut
)

"""The scheduler's contract: what a gateway asks the leader, what it is told, and the record of why.

The gateway owns the request; the leader answers where. Every message is idempotent by (request_id, attempt): a
duplicate changes nothing, an answer to an old attempt is ignored.
"""

from __future__ import annotations

import enum
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import field

from covey_mesh.core.ballot import NO_BALLOT, Ballot
from covey_mesh.core.frozen import frozen
from covey_mesh.core.names import NodeId


class Outcome(enum.Enum):
    """What an ask came to."""

    __hash__ = object.__hash__  # a key of tables on every request's path; enum's own is Python code

    ASSIGNED = "assigned"
    QUEUED = "queued"
    NO_CANDIDATE = "no_candidate"


@frozen
class Ask:
    """Where should this attempt run? `excluded`: machines that refused or cannot be reached, with the reason.

    `prefix_hashes` are chained 64-bit hashes of prompt blocks, first block first. `waited_s` is how long the request
    has waited already, so that a new leader keeps its place in line. `deadline_s` is time left; 0: none.
    `user` is who shares fairly, `priority` 0 interactive, 1 normal, 2 batch. `user_ahead_tokens`, told to a new leader
    only: how far the last one said that this user is ahead (see Answer).
    `prompt_tokens` is the work, over all prompts; where a request has several independent ones, `longest_prompt_tokens`
    is what must fit a context (0: the same).

    `running_on`: no question. The attempt runs there, and a leader that has just begun should know: it answers nothing.
    """

    request_id: str
    attempt: int
    model: str
    prompt_tokens: int
    max_output_tokens: int
    prefix_hashes: tuple[int, ...] = ()
    excluded: Mapping[NodeId, str] = field(default_factory=dict)
    user: str = ""
    priority: int = 1
    deadline_s: float = 0.0
    waited_s: float = 0.0
    user_ahead_tokens: int = 0
    longest_prompt_tokens: int = 0
    running_on: NodeId | None = None

    @property
    def context_tokens(self) -> int:
        """What must fit a machine's context."""
        return self.longest_prompt_tokens or self.prompt_tokens


@frozen
class CandidateVerdict:
    """Why one machine was or was not chosen: `rejected_because` is empty where it passed every filter."""

    node_id: NodeId
    rejected_because: str = ""
    first_token_s: float | None = None
    last_token_s: float | None = None
    terms_s: Mapping[str, float] = field(default_factory=dict)


TURNED_AWAY_DEADLINE = "deadline"
TURNED_AWAY_QUEUE_FULL = "queue_full"
TURNED_AWAY_EXPIRED = "expired"


class Tallied(Sequence[CandidateVerdict]):
    """Verdicts that can be counted without being worked out."""

    __slots__ = ()

    @abstractmethod
    def tally(self) -> tuple[int, int]:
        """(machines that passed, machines that did not)."""


@frozen
class Decision:
    """The record behind an answer, readable by `covey explain`. `decided_by` is "leader" or "gateway"; `turned_away`
    is one of TURNED_AWAY_* where some machine could have served the ask."""

    request_id: str
    attempt: int
    model: str
    decided_at_unix_s: float
    decided_by: str
    decider: NodeId
    outcome: Outcome
    policy: str
    ballot: Ballot = NO_BALLOT
    view_version: int = 0
    chosen: NodeId | None = None
    queued_for_s: float = 0.0
    candidates: Sequence[CandidateVerdict] = ()
    turned_away: str = ""

    @property
    def why(self) -> str:
        """One line for a response header or a log."""
        if self.chosen is not None and isinstance(self.candidates, Tallied):
            passed, refused = self.candidates.tally()
            return f"{self.policy}: best of {passed}, {refused} rejected, by {self.decided_by}"
        rejected = [f"{v.node_id[:8]}: {v.rejected_because}" for v in self.candidates if v.rejected_because]
        if self.chosen is None:
            return f"{self.outcome.value}; " + ("; ".join(rejected) or "no machine in the pool offers the model")
        passed = sum(1 for v in self.candidates if not v.rejected_because)
        return f"{self.policy}: best of {passed}, {len(rejected)} rejected, by {self.decided_by}"


GRANT_REQUESTS_MAX = 4096
GRANT_PROMPT_TOKENS_MAX = 2**20
GRANT_VALID_S_MAX = 1.0
"""Of one grant, whatever a leader says; the decoder sees to it."""


@frozen
class Grant:
    """With an assignment: so many further requests of the same model, with so many prompt tokens together, may start on
    the same machine without asking, within `valid_s` from its arrival. It has nothing to do with the grants that
    machines give a leader (grants.py).

    What is started so is told to the leader in sums (GrantedWork); what goes on for long also by `Ask.running_on`.
    Batch work, and what has a deadline, asks all the same. A further grant comes beside what is left of an earlier one,
    which ends when it would have ended.
    """

    requests: int
    prompt_tokens: int
    valid_s: float


@frozen
class Answer:
    """The leader's word on one attempt. QUEUED is followed by a second answer for the same attempt.

    `user_ahead_tokens`, with an assignment: by how many weighted tokens this user has been served more than the one
    served least; gateways keep it for the next leader.
    """

    request_id: str
    attempt: int
    outcome: Outcome
    node_id: NodeId | None = None
    decision: Decision | None = None
    retry_after_ms: int = 0
    user_ahead_tokens: int = 0
    grant: Grant | None = None


@frozen
class AttemptReport:
    """What became of an assigned attempt; `withdrawn` takes back one that is still queued.

    `refused` comes with `failed`: the machine had no room or is draining, nothing is wrong with it. Prompt tokens are
    the engine's own count, 0 where it did not tell.
    """

    request_id: str
    attempt: int
    node_id: NodeId | None = None
    withdrawn: bool = False
    failed: bool = False
    output_tokens: int = 0
    refused: bool = False
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0


GRANTED_WORK_WITHIN_S = 0.1
"""The leader knows of granted work that is over within this time, and of its start from the machine's own reports."""


@frozen
class GrantedWork:
    """What a gateway started under grants on one machine for one user since it last told, and what came of it, in sums.

    Every request is told once, when it is over: as one of `requests`, with its tokens; of them `failed` failed at the
    machine, with no tokens where nothing was answered. What the leader was told of by an ask (`running_on`) is not in
    here. Prompt tokens are the engine's count where it told, the gateway's estimate where not, the cached ones (as the
    engine told) included. Sums only add up: they may arrive in any order.

    Told GRANTED_WORK_WITHIN_S after the first of them was over, and before an ask for the same model: the places of
    what is over can be granted anew.
    """

    model: str
    node_id: NodeId
    user: str
    priority: int
    requests: int
    prompt_tokens: int
    output_tokens: int
    failed: int = 0
    cached_prompt_tokens: int = 0

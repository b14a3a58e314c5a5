"""Wire form of asks, answers, decisions and the failures of attempts. Unknown outcomes count as absent.

Not here: messages of the mesh itself (codec.py).
"""

from __future__ import annotations

from covey_mesh.core.asking import (
    GRANT_PROMPT_TOKENS_MAX,
    GRANT_REQUESTS_MAX,
    GRANT_VALID_S_MAX,
    Answer,
    Ask,
    AttemptReport,
    CandidateVerdict,
    Decision,
    Grant,
    GrantedWork,
    Outcome,
)
from covey_mesh.core.exchange import Failure, FailureCode
from covey_mesh.core.limits import PEERS_MAX
from covey_mesh.io.codec_values import (
    ballot_from_wire,
    ballot_to_wire,
    bounded,
    clipped,
    from_ms,
    node_id,
    node_id_or_none,
    number,
    prediction_s,
    text,
    to_ms,
)
from covey_mesh.wire.v1 import link_pb2, types_pb2

PREFIX_HASHES_MAX = 8192
"""Prompt blocks named in one ask; longer prompts are told apart well before that."""

TERMS_MAX = 64
"""Named terms of one prediction."""

_OUTCOME_TO_WIRE = {
    Outcome.ASSIGNED: link_pb2.Answer.OUTCOME_ASSIGNED,
    Outcome.QUEUED: link_pb2.Answer.OUTCOME_QUEUED,
    Outcome.NO_CANDIDATE: link_pb2.Answer.OUTCOME_NO_CANDIDATE,
}
_OUTCOME_FROM_WIRE = {number: outcome for outcome, number in _OUTCOME_TO_WIRE.items()}
_OUTCOME_NAMES = {outcome.value: outcome for outcome in Outcome}

_FAILURE_TO_WIRE = {
    FailureCode.NO_MODEL: types_pb2.FAILURE_CODE_NO_MODEL,
    FailureCode.RESOURCE_EXHAUSTED: types_pb2.FAILURE_CODE_RESOURCE_EXHAUSTED,
    FailureCode.DRAINING: types_pb2.FAILURE_CODE_DRAINING,
    FailureCode.ENGINE_FAILED: types_pb2.FAILURE_CODE_ENGINE_FAILED,
    FailureCode.LINK_LOST: types_pb2.FAILURE_CODE_LINK_LOST,
    FailureCode.CANCELLED: types_pb2.FAILURE_CODE_CANCELLED,
    FailureCode.STALE_ATTEMPT: types_pb2.FAILURE_CODE_STALE_ATTEMPT,
    FailureCode.DEADLINE_EXCEEDED: types_pb2.FAILURE_CODE_DEADLINE_EXCEEDED,
    FailureCode.INTERNAL: types_pb2.FAILURE_CODE_INTERNAL,
    FailureCode.STALLED: types_pb2.FAILURE_CODE_STALLED,
}
_FAILURE_FROM_WIRE = {number: code for code, number in _FAILURE_TO_WIRE.items()}


def failure_to_wire(failure: Failure) -> types_pb2.Failure:
    return types_pb2.Failure(
        code=_FAILURE_TO_WIRE[failure.code], message=clipped(failure.message), retry_after_ms=failure.retry_after_ms
    )


def failure_from_wire(message: types_pb2.Failure) -> Failure:
    """A code of a later build counts as INTERNAL: the attempt failed, however it is called there. Raises
    PeerProtocolError."""
    code = _FAILURE_FROM_WIRE.get(message.code, FailureCode.INTERNAL)
    return Failure(code, text(message.message, "a failure's message"), message.retry_after_ms)


def ask_to_wire(ask: Ask) -> link_pb2.Ask:
    return link_pb2.Ask(
        request_id=ask.request_id,
        attempt=ask.attempt,
        model=ask.model,
        prompt_tokens=ask.context_tokens,
        max_output_tokens=ask.max_output_tokens,
        prefix_hashes=ask.prefix_hashes[:PREFIX_HASHES_MAX],
        excluded={str(node): clipped(reason) for node, reason in ask.excluded.items()},
        user=ask.user,
        priority=ask.priority,
        deadline_ms=to_ms(ask.deadline_s),
        waited_ms=to_ms(ask.waited_s),
        user_ahead_tokens=ask.user_ahead_tokens,
        total_prompt_tokens=ask.prompt_tokens if ask.longest_prompt_tokens else 0,
        running_on=ask.running_on or "",
    )


def ask_from_wire(message: link_pb2.Ask) -> Ask:
    """Raises PeerProtocolError."""
    excluded = bounded(message.excluded, PEERS_MAX, "excluded machines")
    return Ask(
        request_id=text(message.request_id, "a request id"),
        attempt=message.attempt,
        model=text(message.model, "a model's name"),
        prompt_tokens=message.total_prompt_tokens or message.prompt_tokens,
        max_output_tokens=message.max_output_tokens,
        prefix_hashes=tuple(bounded(message.prefix_hashes, PREFIX_HASHES_MAX, "prefix hashes")),
        excluded={node_id(key): text(reason, "a reason") for key, reason in excluded.items()},
        user=text(message.user, "a user"),
        priority=message.priority,
        deadline_s=from_ms(message.deadline_ms),
        waited_s=from_ms(message.waited_ms),
        user_ahead_tokens=message.user_ahead_tokens,
        longest_prompt_tokens=message.prompt_tokens if message.total_prompt_tokens else 0,
        running_on=node_id(message.running_on) if message.running_on else None,
    )


def verdict_to_wire(verdict: CandidateVerdict) -> types_pb2.CandidateVerdict:
    message = types_pb2.CandidateVerdict(
        node_id=verdict.node_id, rejected_because=clipped(verdict.rejected_because), terms_s=verdict.terms_s
    )
    if verdict.first_token_s is not None:
        message.first_token_s = verdict.first_token_s
    if verdict.last_token_s is not None:
        message.last_token_s = verdict.last_token_s
    return message


def verdict_from_wire(message: types_pb2.CandidateVerdict) -> CandidateVerdict:
    """Raises PeerProtocolError."""
    terms = bounded(message.terms_s, TERMS_MAX, "terms")
    return CandidateVerdict(
        node_id=node_id(message.node_id),
        rejected_because=text(message.rejected_because, "a reason"),
        first_token_s=prediction_s(message.first_token_s) if message.HasField("first_token_s") else None,
        last_token_s=prediction_s(message.last_token_s) if message.HasField("last_token_s") else None,
        terms_s={text(name, "a term"): prediction_s(value) for name, value in terms.items()},
    )


def decision_to_wire(decision: Decision) -> types_pb2.Decision:
    return types_pb2.Decision(
        request_id=decision.request_id,
        attempt=decision.attempt,
        model=decision.model,
        decided_at_unix_s=decision.decided_at_unix_s,
        decided_by=decision.decided_by,
        decider_node_id=decision.decider,
        ballot=ballot_to_wire(decision.ballot),
        view_version=decision.view_version,
        outcome=decision.outcome.value,
        chosen_node_id=decision.chosen or "",
        policy=decision.policy,
        queued_for_s=decision.queued_for_s,
        candidates=[verdict_to_wire(verdict) for verdict in decision.candidates],
        turned_away=decision.turned_away,
    )


def decision_from_wire(message: types_pb2.Decision) -> Decision | None:
    """None for an outcome that this build does not know. Raises PeerProtocolError."""
    outcome = _OUTCOME_NAMES.get(message.outcome)
    if outcome is None:
        return None
    return Decision(
        request_id=text(message.request_id, "a request id"),
        attempt=message.attempt,
        model=text(message.model, "a model's name"),
        decided_at_unix_s=number(message.decided_at_unix_s, "a time"),
        decided_by=text(message.decided_by, "a decider"),
        decider=node_id(message.decider_node_id),
        outcome=outcome,
        policy=text(message.policy, "a policy's name"),
        ballot=ballot_from_wire(message.ballot),
        view_version=message.view_version,
        chosen=node_id_or_none(message.chosen_node_id),
        queued_for_s=number(message.queued_for_s, "a waiting time"),
        candidates=tuple(verdict_from_wire(v) for v in bounded(message.candidates, PEERS_MAX, "candidates")),
        turned_away=text(message.turned_away, "a reason"),
    )


def answer_to_wire(answer: Answer) -> link_pb2.Answer:
    return link_pb2.Answer(
        request_id=answer.request_id,
        attempt=answer.attempt,
        outcome=_OUTCOME_TO_WIRE[answer.outcome],
        node_id=answer.node_id or "",
        decision=None if answer.decision is None else decision_to_wire(answer.decision),
        retry_after_ms=answer.retry_after_ms,
        user_ahead_tokens=answer.user_ahead_tokens,
        grant=None if answer.grant is None else _grant_to_wire(answer.grant),
    )


def answer_from_wire(message: link_pb2.Answer) -> Answer | None:
    """None for an outcome that this build does not know. Raises PeerProtocolError."""
    outcome = _OUTCOME_FROM_WIRE.get(message.outcome)
    if outcome is None:
        return None
    return Answer(
        request_id=text(message.request_id, "a request id"),
        attempt=message.attempt,
        outcome=outcome,
        node_id=node_id_or_none(message.node_id),
        decision=decision_from_wire(message.decision) if message.HasField("decision") else None,
        retry_after_ms=message.retry_after_ms,
        user_ahead_tokens=message.user_ahead_tokens,
        grant=_grant_from_wire(message.grant) if message.HasField("grant") else None,
    )


def _grant_to_wire(grant: Grant) -> link_pb2.Answer.Grant:
    return link_pb2.Answer.Grant(
        requests=grant.requests, prompt_tokens=grant.prompt_tokens, valid_ms=to_ms(grant.valid_s)
    )


def _grant_from_wire(message: link_pb2.Answer.Grant) -> Grant:
    """Whatever a leader says, a gateway asks again before long."""
    return Grant(
        requests=min(message.requests, GRANT_REQUESTS_MAX),
        prompt_tokens=min(message.prompt_tokens, GRANT_PROMPT_TOKENS_MAX),
        valid_s=min(from_ms(message.valid_ms), GRANT_VALID_S_MAX),
    )


def report_to_wire(report: AttemptReport) -> link_pb2.AttemptReport:
    return link_pb2.AttemptReport(
        request_id=report.request_id,
        attempt=report.attempt,
        node_id=report.node_id or "",
        withdrawn=report.withdrawn,
        failed=report.failed,
        output_tokens=report.output_tokens,
        refused=report.refused,
        prompt_tokens=report.prompt_tokens,
        cached_prompt_tokens=report.cached_prompt_tokens,
    )


def report_from_wire(message: link_pb2.AttemptReport) -> AttemptReport:
    """Raises PeerProtocolError."""
    return AttemptReport(
        request_id=text(message.request_id, "a request id"),
        attempt=message.attempt,
        node_id=node_id_or_none(message.node_id),
        withdrawn=message.withdrawn,
        failed=message.failed,
        output_tokens=message.output_tokens,
        refused=message.refused,
        prompt_tokens=message.prompt_tokens,
        cached_prompt_tokens=message.cached_prompt_tokens,
    )


def granted_work_to_wire(work: GrantedWork) -> link_pb2.GrantedWork:
    return link_pb2.GrantedWork(
        model=work.model,
        node_id=work.node_id,
        user=work.user,
        priority=work.priority,
        requests=work.requests,
        prompt_tokens=work.prompt_tokens,
        output_tokens=work.output_tokens,
        failed=work.failed,
        cached_prompt_tokens=work.cached_prompt_tokens,
    )


def granted_work_from_wire(message: link_pb2.GrantedWork) -> GrantedWork:
    """Raises PeerProtocolError."""
    return GrantedWork(
        model=text(message.model, "a model's name"),
        node_id=node_id(message.node_id),
        user=text(message.user, "a user"),
        priority=message.priority,
        requests=message.requests,
        prompt_tokens=message.prompt_tokens,
        output_tokens=message.output_tokens,
        failed=message.failed,
        cached_prompt_tokens=message.cached_prompt_tokens,
    )

"""What an observed request counts as, given the undisturbed text and what was done to its gateway. Pure.

S3 of the design: every stream is an exact contiguous sequence ending in one finish or one error. L1: requests complete
if any capable machine is reachable; every machine of the lab serves the model, so a gateway that lives never has a
reason to refuse. Requests whose own gateway was killed have nobody to answer them: they are set aside, not judged.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.lan.chaos.kinds import KINDS
from tests.lan.chaos.observation import Ended, Observation


class Outcome(enum.Enum):
    """One of these for every request."""

    COMPLETE = "complete"
    RETRIED = "retried"
    CONTINUED = "continued"
    REFUSED = "refused"
    CLEAN_ERROR = "clean error"
    GATEWAY_GONE = "gateway gone"
    VIOLATION = "violation"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`why` is empty but for a violation."""

    outcome: Outcome
    why: str = ""


@dataclass(slots=True)
class GatewayHistory:
    """Unix times of what was done to one gateway's process."""

    ended: list[tuple[float, float]] = field(default_factory=list)
    """Killed or asked to stop, until it answered again."""
    frozen: list[tuple[float, float]] = field(default_factory=list)
    killed: list[float] = field(default_factory=list)

    def was_ended(self, from_s: float, to_s: float) -> bool:
        return _overlaps(self.ended, from_s, to_s)

    def was_frozen(self, from_s: float, to_s: float) -> bool:
        return _overlaps(self.frozen, from_s, to_s)


def _overlaps(spans: Iterable[tuple[float, float]], from_s: float, to_s: float) -> bool:
    return any(begin <= to_s and from_s <= end for begin, end in spans)


GRACE_S = 0.1
"""The client may see the end of its gateway's process a moment before the harness has noted it."""
ON_ITS_WAY_S = 1.0
"""After its machine was killed, what that one had sent may still come; later text is another machine's."""


class Told(NamedTuple):
    """A whole answer: its text, and of how many tokens it is."""

    text: str
    tokens: int


Undisturbed = Mapping[tuple[str, int], Told]
"""(kind, prompt number) -> the whole answer."""


def judge(
    seen: Observation,
    undisturbed: Undisturbed,
    gateway: GatewayHistory,
    may_refuse: bool = False,
    machine: GatewayHistory | None = None,
    lag_s: float = 0.0,
) -> Verdict:
    """Exactly one outcome. `may_refuse`: the scenario leaves some gateway without any capable machine. `machine`: of
    who served first, to see that an answer which went on elsewhere says so; `lag_s`: how late the observer was."""
    expected = undisturbed[seen.kind, seen.prompt_number]
    wrong = wrong_text(seen.text, expected.text)
    if wrong:
        return Verdict(Outcome.VIOLATION, wrong)
    excused = gateway.was_ended(seen.started_s, seen.ended_s + GRACE_S)
    if seen.ended is Ended.FINISHED:
        if machine is not None and outlived(seen, machine, lag_s) and not seen.continued:
            return Verdict(Outcome.VIOLATION, "it outlived its machine, but is not flagged as continued")
        return _finished(seen, expected)
    if seen.ended is Ended.MALFORMED:
        return Verdict(Outcome.VIOLATION, f"malformed: {seen.detail}")
    if excused:
        return Verdict(Outcome.GATEWAY_GONE)
    if seen.ended is Ended.ERROR_EVENT:
        return _error_event(seen)
    if seen.ended is Ended.REFUSED:
        return _refused(seen, may_refuse)
    named = {Ended.SILENT: "hung", Ended.CUT: "lost"}.get(seen.ended, "unreachable")
    return Verdict(Outcome.VIOLATION, f"{named}: {seen.ended.value} {seen.detail}")


def outlived(seen: Observation, machine: GatewayHistory, lag_s: float) -> bool:
    """Whether text of a stream came that its first machine, killed in its midst, cannot have written."""
    if seen.first_token_s is None:
        return False
    first_s = seen.started_s + seen.first_token_s
    # The observer's loop may have been late more than once in a row.
    late_s = ON_ITS_WAY_S + 2 * lag_s
    return any(first_s < killed_s and killed_s + late_s < seen.last_piece_s for killed_s in machine.killed)


def wrong_text(text: str, expected: str) -> str:
    """Empty if `text` is a beginning of `expected` (or all of it); else what went wrong with it."""
    if expected.startswith(text):
        return ""
    got, wanted = text.split(), expected.split()
    at = next((i for i, (a, b) in enumerate(zip(got, wanted, strict=False)) if a != b), min(len(got), len(wanted)))
    rest = got[at : at + 3]
    if not rest or at >= len(wanted):
        return f"duplicated: {len(got) - at} words beyond the end"
    if rest in [wanted[i : i + len(rest)] for i in range(at)]:
        return f"duplicated: from word {at} on"
    if rest in [wanted[i : i + len(rest)] for i in range(at + 1, len(wanted))]:
        return f"lost: words missing from word {at} on"
    return f"torn: another text from word {at} on"


def _finished(seen: Observation, expected: Told) -> Verdict:
    if seen.text != expected.text:
        missing = len(expected.text.split()) - len(seen.text.split())
        return Verdict(Outcome.VIOLATION, f"lost: finished with {missing} words missing")
    if seen.finishes != 1:
        return Verdict(Outcome.VIOLATION, f"torn: {seen.finishes} finish reasons")
    if seen.output_tokens not in (None, expected.tokens):
        return Verdict(Outcome.VIOLATION, f"usage tells {seen.output_tokens} of {expected.tokens} tokens")
    if seen.continued:
        if not KINDS[seen.kind].sound:
            return Verdict(Outcome.VIOLATION, "continued, though that is not sound")
        return Verdict(Outcome.CONTINUED)
    return Verdict(Outcome.RETRIED if seen.attempts > 1 else Outcome.COMPLETE)


def _error_event(seen: Observation) -> Verdict:
    if not seen.detail or seen.code in ("", "None"):
        return Verdict(Outcome.VIOLATION, "the error event says nothing")
    if seen.finishes:
        return Verdict(Outcome.VIOLATION, "torn: a finish and an error")
    return Verdict(Outcome.CLEAN_ERROR)


def _refused(seen: Observation, may_refuse: bool) -> Verdict:
    if not seen.detail or seen.code in ("", "None"):
        return Verdict(Outcome.VIOLATION, f"status {seen.status} without a clear error")
    if seen.status == 503 and not seen.retry_after:
        return Verdict(Outcome.VIOLATION, "503 without Retry-After")
    if not may_refuse:
        return Verdict(
            Outcome.VIOLATION, f"refused although a capable machine was reachable: {seen.code} {seen.detail}"
        )
    return Verdict(Outcome.REFUSED)

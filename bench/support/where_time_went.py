"""Where a slow request's time to the first token went, from its gateway's own record (`covey explain`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def spans(record: Mapping[str, Any], first_s: float) -> str:
    """One line. `record`: the JSON of /covey/v1/explain/ID; `first_s`: the client's own time to the first token.

    `outside`: not at the gateway: connecting, both ends' event loops. `placing`: from arrival until the attempt that
    answered was opened: the ask, the leader's queue, attempts that were refused. `serving`: that attempt, until its
    first byte; `expected` what the leader predicted of it.
    """
    attempts = record.get("attempts", [])
    at_gateway_s = record.get("first_byte_s", 0.0)
    served = attempts[-1] if attempts else {}
    serving_s = served.get("first_byte_s", 0.0)
    words = [
        f"outside {1000 * (first_s - at_gateway_s):.0f}",
        f"placing {1000 * (at_gateway_s - serving_s):.0f}",
        f"serving {1000 * serving_s:.0f}",
        *_last_decision(record.get("decisions", []), str(served.get("node_id", ""))),
        "attempts " + (", ".join(str(each.get("outcome", "?")) for each in attempts) or "none"),
    ]
    return "; ".join(words)


def _last_decision(decisions: list[Mapping[str, Any]], node_id: str) -> list[str]:
    asked = ", ".join(_told(each) for each in decisions) or "nothing was decided"
    verdicts = decisions[-1].get("candidates", []) if decisions else []
    words = [f"decisions {asked}"]
    for verdict in verdicts:
        own = verdict.get("node_id") == node_id
        terms = " ".join(f"{name} {1000 * seconds:.0f}" for name, seconds in verdict.get("terms_s", {}).items())
        reason = verdict.get("rejected_because", "")
        words.append(
            ("expected " if own else "not ") + (terms or reason) + (f" ({reason})" if terms and reason else "")
        )
    return words


def _told(decision: Mapping[str, Any]) -> str:
    outcome = str(decision.get("outcome", "?")).rpartition("_")[2].lower()
    queued_s = decision.get("queued_for_s", 0.0)
    waited = f" after {1000 * queued_s:.0f}" if queued_s else ""
    return f"{outcome} by {decision.get('decided_by', '?')}{waited}"

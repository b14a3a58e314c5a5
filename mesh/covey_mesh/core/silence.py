"""How long an engine may say nothing: what nodes, which see one engine, and gateways, which see one attempt, share.

Not here: the two judgements (covey_node.core.engine_progress, covey_gateway.core.progress).
"""

from __future__ import annotations

import re

FACTOR = 4.0
"""Over the expected time: decode speed halves with a full batch, a preempted request is computed twice."""

FLOOR_S = 2.0
"""For what no speed explains: a busy processor, a garbage collection, a report's age, a reconnecting link."""

SLOWEST_PREFILL_TOKENS_PER_S = 200.0
SLOWEST_DECODE_TOKENS_PER_S = 2.0
"""Below these nobody would wait; used while nothing is measured."""

STEP_PROMPT_TOKENS = 2048
"""Prompt tokens that an engine may compute between two tokens of a stream (vLLM: max_num_batched_tokens)."""

TOKENS_AN_EVENT = 8
"""Tokens that an engine may join in one event, or hold back for a stop string."""

TOKENS_A_TOOL_CALL = 512
"""Tokens that a tool-call parser may hold back until the call is complete."""

CONTEXT_TOKENS_UNKNOWN = 32_768

_HOLDING_BACK = re.compile(rb'"(?:tools|functions|stream_interval|response_format)"')
"""One pass over a body that may be long."""


def may_hold_back(body: bytes) -> bool:
    """Whether a request has a field with which an engine may write many tokens before it sends an event."""
    return _HOLDING_BACK.search(body) is not None

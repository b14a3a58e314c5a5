"""What becomes of one line's answer: a line of the output file, a line of the error file, or another try.

Shapes follow OpenAI's batch output: an answer of any status stands in `response`, and only what never got an answer
has an `error`. Statuses other than 200 go to the error file. Not here: who asks again, and when the clock says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from covey_gateway.core.batches.settings import BatchSettings
from covey_gateway.core.batches.state import CANCELLED_CODE, EXPIRED_CODE, NO_TOKENS, TokensUsed
from covey_gateway.core.errors import Code

WAITING = frozenset(
    code.value
    for code in (Code.POOL_BUSY, Code.NOTHING_ABLE_TO_SERVE, Code.GATEWAY_FULL, Code.DRAINING, Code.MODEL_NOT_FOUND)
)
"""Refusals that say nothing of the line: the pool has no room or no machine now. A batch waits, however long."""

DOUBLINGS_MAX = 16

UNFINISHED: Mapping[str, str] = {
    EXPIRED_CODE: "This request could not be executed before the completion window expired.",
    CANCELLED_CODE: "This request was not executed because the batch was cancelled.",
}


@dataclass(frozen=True, slots=True)
class Result:
    """One line's end, as it will stand in a file (with its line break)."""

    batch_id: str
    number: int
    failed: bool
    line: bytes
    tokens: TokensUsed = NO_TOKENS


@dataclass(frozen=True, slots=True)
class Again:
    """Ask once more after `after_s`. `busy`: the pool had no room, which is no fault of the line."""

    after_s: float
    busy: bool


@dataclass(frozen=True, slots=True)
class Answered:
    """What came back for one line. `status` 0: the answer broke off, or was too large to keep."""

    status: int
    request_id: str
    body: bytes
    retry_after_s: float = 0.0


class _Error(msgspec.Struct):
    code: object = None


class _Refusal(msgspec.Struct):
    error: _Error | None = None


class _Details(msgspec.Struct):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    input_tokens: int | None = None
    completion_tokens: int | None = None
    output_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None


class _Counted(msgspec.Struct):
    usage: _Usage | None = None


_refusal = msgspec.json.Decoder(_Refusal)
_counted = msgspec.json.Decoder(_Counted)
_whole = msgspec.json.Decoder(msgspec.Raw)


def judge(
    batch_id: str, number: int, custom_id: str, answer: Answered, failures: int, settings: BatchSettings
) -> Result | Again:
    """`failures`: how often this line has failed before by the pool's fault, refusals for want of room not counted."""
    code = _code(answer)
    if answer.status != 200 and code in WAITING:
        return Again(min(settings.retry_max_s, max(settings.retry_first_s, answer.retry_after_s)), busy=True)
    broken = answer.status >= 500 or answer.status in (0, 408, 429) or _compact(answer.body) is None
    if broken and failures + 1 < settings.line_attempts_max:
        return Again(min(settings.retry_max_s, settings.retry_first_s * 2 ** min(failures, DOUBLINGS_MAX)), busy=False)
    return _final(batch_id, number, custom_id, answer)


def _final(batch_id: str, number: int, custom_id: str, answer: Answered) -> Result:
    body = _compact(answer.body)
    if not answer.status or body is None:
        message = "The engines' answers to this request broke off, were too large, or were no JSON."
        line = error_line(batch_id, number, custom_id, "no_answer", message)
        return Result(batch_id, number, True, line)
    response = {"status_code": answer.status, "request_id": answer.request_id, "body": msgspec.Raw(body)}
    content = {"id": line_id(batch_id, number), "custom_id": custom_id, "response": response, "error": None}
    line = msgspec.json.encode(content) + b"\n"
    return Result(batch_id, number, answer.status != 200, line, tokens_of(body))


def error_line(batch_id: str, number: int, custom_id: str, code: str, message: str) -> bytes:
    """A line that never got an answer."""
    error = {"code": code, "message": message}
    content = {"id": line_id(batch_id, number), "custom_id": custom_id, "response": None, "error": error}
    return msgspec.json.encode(content) + b"\n"


def unfinished(batch_id: str, number: int, custom_id: str, code: str) -> Result:
    """The end of a line that was not asked in time. `code`: EXPIRED_CODE or CANCELLED_CODE."""
    return Result(batch_id, number, True, error_line(batch_id, number, custom_id, code, UNFINISHED[code]))


def line_id(batch_id: str, number: int) -> str:
    return f"batch_req_{batch_id.removeprefix('batch_')}{number:06x}"


def tokens_of(body: bytes) -> TokensUsed:
    """What an answer's `usage` says, chat's names or the Responses interface's; zeros where it says nothing."""
    try:
        usage = _counted.decode(body).usage
    except (msgspec.DecodeError, RecursionError):
        usage = None
    if usage is None:
        return TokensUsed()
    given = usage.prompt_tokens_details or usage.input_tokens_details or _Details()
    made = usage.completion_tokens_details or usage.output_tokens_details or _Details()
    return TokensUsed(
        usage.prompt_tokens or usage.input_tokens or 0,
        given.cached_tokens or 0,
        usage.completion_tokens or usage.output_tokens or 0,
        made.reasoning_tokens or 0,
    )


def _code(answer: Answered) -> str:
    if answer.status == 200:
        return ""
    try:
        error = _refusal.decode(answer.body).error
    except (msgspec.DecodeError, RecursionError):
        return ""
    return error.code if error is not None and isinstance(error.code, str) else ""


def _compact(body: bytes) -> bytes | None:
    """The answer as one line of JSON; None where it is no JSON."""
    try:
        body.decode()
        _whole.decode(body)
        return msgspec.json.format(body, indent=-1) if b"\n" in body or b"\r" in body else body
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return None

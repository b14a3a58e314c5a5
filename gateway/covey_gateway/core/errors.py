"""What a client is told when it gets no answer: a status and an OpenAI-shaped body that says what to do next.

Not here: when each is due (request.py, http edge). The shape is that of OpenAI's API reference,
`{"error": {"message", "type", "param", "code"}}`; clients switch on `type` and `code`, people read `message`.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from covey_mesh.core.asking import Decision

JSON = "application/json"
MODELS_LISTED_MAX = 50


class Code(enum.Enum):
    """Machine-readable reasons: the complete set, so that it may label a metric."""

    MALFORMED_JSON = "malformed_json"
    INVALID_FIELD = "invalid_field"
    MODEL_MISSING = "model_missing"
    MODEL_NOT_FOUND = "model_not_found"
    CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
    BODY_TOO_LARGE = "body_too_large"
    INVALID_API_KEY = "invalid_api_key"
    FORBIDDEN = "forbidden"
    PATH_NOT_FOUND = "path_not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    BAD_HTTP = "bad_http"
    HEADERS_TOO_LARGE = "headers_too_large"
    REQUEST_TIMEOUT = "request_timeout"
    EXPECTATION_FAILED = "expectation_failed"
    NOTHING_ABLE_TO_SERVE = "nothing_able_to_serve"
    POOL_BUSY = "pool_busy"
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    DEADLINE_UNREACHABLE = "deadline_unreachable"
    STREAM_BROKEN = "stream_broken"
    DRAINING = "draining"
    GATEWAY_FULL = "gateway_full"
    OBJECT_NOT_FOUND = "object_not_found"
    OBJECT_IN_USE = "object_in_use"
    BATCH_ENDED = "batch_ended"
    TOO_MANY_BATCHES = "too_many_batches"
    OWNER_UNREACHABLE = "owner_unreachable"
    STORAGE_FULL = "storage_full"
    STORAGE_FAILED = "storage_failed"
    INTERNAL = "internal"


@dataclass(unsafe_hash=True)
class GatewayError(Exception):
    """A refusal. `param` names the offending field; `retry_after_s` 0: no Retry-After header.

    Immutable by convention only: Python itself writes to a raised exception.
    """

    status: int
    code: Code
    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    retry_after_s: int = 0

    def __str__(self) -> str:
        return self.message

    def body(self) -> bytes:
        return error_body(self.message, self.type, self.code.value, self.param)

    def event(self, named: bool = False) -> bytes:
        """The final server-sent event of a broken stream; `named` for clients of event-typed streams."""
        prefix = b"event: error\n" if named else b""
        return prefix + b"data: " + self.body() + b"\n\n"


def error_body(message: str, kind: str, code: str, param: str | None = None) -> bytes:
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": param, "code": code}})


def unavailable(code: Code, message: str, retry_after_s: int) -> GatewayError:
    """503: the pool cannot do it now but may soon."""
    return GatewayError(503, code, message, "service_unavailable_error", retry_after_s=max(1, retry_after_s))


def pool_busy(model: str, retry_after_s: int) -> GatewayError:
    message = f"Every machine that offers `{model[:200]}` is busy. Retry after the time in Retry-After."
    return unavailable(Code.POOL_BUSY, message, retry_after_s)


def nothing_serves(code: Code, model: str, why: str, request_id: str, retry_after_s: int) -> GatewayError:
    message = (
        f"No machine can serve `{model[:200]}` now ({why}). Retry after the time in Retry-After; "
        f"`covey explain {request_id}` tells more."
    )
    return unavailable(code, message, retry_after_s)


def malformed_json(detail: str) -> GatewayError:
    return GatewayError(400, Code.MALFORMED_JSON, f"The body is not valid JSON: {detail}. Send one JSON object.")


def invalid_field(detail: str, param: str | None) -> GatewayError:
    return GatewayError(
        400, Code.INVALID_FIELD, f"{detail}. Correct this field and send the request again.", param=param
    )


def _offer(models: Iterable[str]) -> str:
    names = sorted(models)
    listed = ", ".join(names[:MODELS_LISTED_MAX]) + (", ..." if len(names) > MODELS_LISTED_MAX else "")
    return (
        f"Available now: {listed}." if names else "No model is loaded in this pool; load one with `covey up --model`."
    )


def model_missing(models: Iterable[str]) -> GatewayError:
    message = f"The request names no model. Set `model`. {_offer(models)}"
    return GatewayError(400, Code.MODEL_MISSING, message, param="model")


def model_not_found(model: str, models: Iterable[str]) -> GatewayError:
    """404 in OpenAI's words, with what there is."""
    message = f"The model `{model[:200]}` does not exist in this pool. {_offer(models)}"
    return GatewayError(404, Code.MODEL_NOT_FOUND, message, param="model")


def context_exceeded(limit_tokens: int, tokens: int, measure: str) -> GatewayError:
    """`measure`: how sure `tokens` is: "at least", "about"."""
    message = (
        f"This model's maximum context length is {limit_tokens} tokens; the prompt has {measure} {tokens}. "
        "Shorten the prompt or choose a model with a longer context."
    )
    return GatewayError(400, Code.CONTEXT_LENGTH_EXCEEDED, message, param="messages")


def body_too_large(limit_bytes: int) -> GatewayError:
    advice = "Send less at once: smaller images, fewer inputs, a file in parts."
    message = f"The request body is larger than {limit_bytes} bytes. {advice}"
    return GatewayError(413, Code.BODY_TOO_LARGE, message)


def key_needed(given: bool) -> GatewayError:
    found = "The API key is not known here." if given else "No API key was given."
    message = f"{found} Send `Authorization: Bearer KEY` with a key that this pool's administrator has issued."
    return GatewayError(401, Code.INVALID_API_KEY, message, "authentication_error")


def forbidden(message: str) -> GatewayError:
    return GatewayError(403, Code.FORBIDDEN, message, "permission_error")


def path_not_found(method: str, path: str) -> GatewayError:
    message = f"Unknown request URL: {method} {path[:200]}. The API lives under /v1, see GET /v1/models."
    return GatewayError(404, Code.PATH_NOT_FOUND, message)


def method_not_allowed(method: str, path: str, allowed: str) -> GatewayError:
    return GatewayError(405, Code.METHOD_NOT_ALLOWED, f"{method} is not possible on {path[:200]}; use {allowed}.")


def bad_http(detail: str) -> GatewayError:
    return GatewayError(400, Code.BAD_HTTP, f"The HTTP request is malformed: {detail}. The connection is closed.")


def headers_too_large() -> GatewayError:
    return GatewayError(431, Code.HEADERS_TOO_LARGE, "The request's headers are too large or too many; send fewer.")


def request_timeout(part: str) -> GatewayError:
    return GatewayError(408, Code.REQUEST_TIMEOUT, f"The request's {part} came too slowly; send it again.")


def deadline_exceeded() -> GatewayError:
    message = "The request's deadline passed before the answer was complete. Allow more time or ask for less."
    return GatewayError(504, Code.DEADLINE_EXCEEDED, message, "timeout_error")


def deadline_unreachable(decision: Decision | None, retry_after_ms: int) -> GatewayError:
    """503, at once rather than when it is too late: no machine can answer in time. Without a Retry-After an idle pool
    could not either."""
    why = "" if decision is None else next((v.rejected_because for v in decision.candidates if v.rejected_because), "")
    idle = "Even an idle machine would take longer: allow more time, or ask for a shorter answer."
    advice = "Try again after the time in Retry-After, or allow more time." if retry_after_ms else idle
    message = f"The request's deadline cannot be kept ({why[:200] or 'predicted'}). {advice}"
    retry_after_s = math.ceil(retry_after_ms / 1000)
    return GatewayError(
        503, Code.DEADLINE_UNREACHABLE, message, "service_unavailable_error", retry_after_s=retry_after_s
    )


def stream_broken(detail: str) -> GatewayError:
    message = f"The answer broke off: {detail}. What was received is incomplete; send the request again."
    return GatewayError(502, Code.STREAM_BROKEN, message, "server_error")


def internal() -> GatewayError:
    message = "A fault in covey itself; its log has the details. Send the request again."
    return GatewayError(500, Code.INTERNAL, message, "server_error")

"""Files and batches as JSON objects in OpenAI's shapes, and lists of them in pages.

Besides OpenAI's fields a batch has `covey`: the machine that keeps it, and what it waits for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from covey_gateway.core.batches.ids import BATCH, FILE, read_id
from covey_gateway.core.batches.state import Batch, Status

INPUT_PURPOSE, OUTPUT_PURPOSE = "batch", "batch_output"
PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
"""What OpenAI's interface lets a client say; only `batch` files can be run."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """`expires_at_s` 0: never. `batch_id`: the batch whose results it holds, "" for an uploaded one."""

    id: str
    user: str
    filename: str
    purpose: str
    size_bytes: int
    created_at_s: int
    expires_at_s: int = 0
    batch_id: str = ""
    errors: bool = False


def file_object(file: StoredFile) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size_bytes,
        "created_at": file.created_at_s,
        "expires_at": file.expires_at_s or None,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def batch_object(batch: Batch, owner: str, waits_for: str = "") -> dict[str, Any]:
    """`owner`: the name of the machine that keeps it."""
    at_s = {f"{status.value}_at": batch.at_s.get(status.value) for status in Status if status is not Status.VALIDATING}
    errors = [{"code": e.code, "line": e.line, "message": e.message, "param": e.param} for e in batch.errors]
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.model or None,
        "errors": {"object": "list", "data": errors} if errors else None,
        "input_file_id": batch.input_file_id,
        "completion_window": batch.window,
        "status": batch.status.value,
        "output_file_id": batch.output_file_id or None,
        "error_file_id": batch.error_file_id or None,
        "created_at": batch.created_at_s,
        "expires_at": batch.expires_at_s,
        **at_s,
        "request_counts": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
        "usage": _usage(batch),
        "metadata": dict(batch.metadata) or None,
        "covey": {"machine": owner, "waits_for": waits_for or None},
    }


def _usage(batch: Batch) -> dict[str, Any]:
    used = batch.tokens
    return {
        "input_tokens": used.input_tokens,
        "input_tokens_details": {"cached_tokens": used.cached_tokens},
        "output_tokens": used.output_tokens,
        "output_tokens_details": {"reasoning_tokens": used.reasoning_tokens},
        "total_tokens": used.input_tokens + used.output_tokens,
    }


@dataclass(frozen=True, slots=True)
class PageQuery:
    """`after`: the last object of the page before ("": from the start)."""

    kind: str
    limit: int
    after: str = ""
    newest_first: bool = True
    purpose: str = ""

    def cursor(self) -> tuple[int, str] | None:
        found = read_id(self.after, self.kind)
        return None if found is None else found.order


def page(objects: Iterable[Mapping[str, Any]], query: PageQuery) -> dict[str, Any]:
    """One page out of what one or several machines returned, each its own first `limit` + 1 after the cursor."""
    ordered = sorted({each["id"]: each for each in objects}.values(), key=_order, reverse=query.newest_first)
    shown: Sequence[Mapping[str, Any]] = ordered[: query.limit]
    return {
        "object": "list",
        "data": list(shown),
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(ordered) > query.limit,
    }


def _order(found: Mapping[str, Any]) -> tuple[int, str]:
    text = str(found["id"])
    known = read_id(text, FILE if text.startswith(FILE) else BATCH)
    return (0, text) if known is None else known.order

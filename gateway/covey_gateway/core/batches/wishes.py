"""What clients may ask of files and batches: bodies and queries, read and bounded. Raises GatewayError 400."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs

import msgspec

from covey_gateway.core.batches.ids import FILE, ObjectId, read_id
from covey_gateway.core.batches.lines import ENDPOINTS
from covey_gateway.core.batches.objects import OUTPUT_PURPOSE, PURPOSES, PageQuery
from covey_gateway.core.errors import Code, GatewayError, invalid_field, malformed_json

BODY_BYTES_MAX = 64 * 1024
METADATA_MAX = 16
METADATA_KEY_MAX = 64
METADATA_VALUE_MAX = 512
KEPT_MIN_S, KEPT_MAX_S = 3600, 30 * 24 * 3600
WINDOW_MIN_S, WINDOW_MAX_S = 60, 30 * 24 * 3600
FILENAME_CHARACTERS_MAX = 255
FILES_PAGE_MAX, BATCHES_PAGE_MAX, BATCHES_PAGE = 10_000, 100, 20

_WINDOW = re.compile(r"([0-9]{1,6})([mhd])")
_UNIT_S = {"m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True)
class BatchWish:
    """What is to be made. `output_kept_s` 0: as usual."""

    input_file: ObjectId
    endpoint: str
    window: str
    window_s: int
    metadata: Mapping[str, str]
    output_kept_s: int = 0


class _Expiry(msgspec.Struct):
    anchor: str
    seconds: int


class _Create(msgspec.Struct):
    input_file_id: str | None = None
    endpoint: str | None = None
    completion_window: str | None = None
    metadata: dict[str, str] | None = None
    output_expires_after: _Expiry | None = None


_create = msgspec.json.Decoder(_Create)


def read_batch_wish(body: bytes) -> BatchWish:
    if len(body) > BODY_BYTES_MAX:
        raise invalid_field(f"The body is longer than {BODY_BYTES_MAX} bytes", None)
    try:
        wish = _create.decode(body)
    except msgspec.ValidationError as error:
        raise invalid_field(f"The body: {error}", None) from None
    except (msgspec.DecodeError, RecursionError):
        raise malformed_json("it is incomplete or no object") from None
    for name in ("input_file_id", "endpoint", "completion_window"):
        if getattr(wish, name) is None:
            raise invalid_field(f"`{name}` is missing", name)
    file_id = read_id(wish.input_file_id or "", FILE)
    if file_id is None:
        raise object_not_found("file", wish.input_file_id or "", "input_file_id")
    if wish.endpoint not in ENDPOINTS:
        raise invalid_field(f"`endpoint` must be one of {', '.join(ENDPOINTS)}", "endpoint")
    window = wish.completion_window or ""
    kept = wish.output_expires_after
    kept_s = 0 if kept is None else kept_for(kept.anchor, str(kept.seconds), "output_expires_after")
    return BatchWish(file_id, wish.endpoint or "", window, window_s(window), _metadata(wish.metadata or {}), kept_s)


def window_s(window: str) -> int:
    """OpenAI knows `24h` alone; here any number of minutes, hours or days."""
    found = _WINDOW.fullmatch(window)
    seconds = int(found[1]) * _UNIT_S[found[2]] if found else 0
    if not WINDOW_MIN_S <= seconds <= WINDOW_MAX_S:
        raise invalid_field("`completion_window` must be such as 24h: 1m to 30d", "completion_window")
    return seconds


def kept_for(anchor: str, seconds: str, param: str) -> int:
    """An expiry policy, in seconds."""
    if anchor != "created_at":
        raise invalid_field(f"`{param}.anchor` must be created_at", param)
    if not (seconds.isascii() and seconds.isdigit() and len(seconds) < 10):
        raise invalid_field(f"`{param}.seconds` must be a whole number", param)
    if not KEPT_MIN_S <= int(seconds) <= KEPT_MAX_S:
        raise invalid_field(f"`{param}.seconds` must be {KEPT_MIN_S} to {KEPT_MAX_S}", param)
    return int(seconds)


def check_purpose(purpose: str) -> str:
    if purpose not in PURPOSES:
        raise invalid_field(f"`purpose` must be one of {', '.join(PURPOSES)}; `batch` for a batch's input", "purpose")
    return purpose


def clean_filename(name: str) -> str:
    """As the client called it, without folders and control characters."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(c for c in last if c.isprintable())[:FILENAME_CHARACTERS_MAX] or "file"


def read_page_query(kind: str, query: str) -> PageQuery:
    """`kind`: FILE or BATCH."""
    given = {name: values[-1] for name, values in parse_qs(query, max_num_fields=20).items()}
    most, usual = (FILES_PAGE_MAX, FILES_PAGE_MAX) if kind == FILE else (BATCHES_PAGE_MAX, BATCHES_PAGE)
    limit = given.get("limit", str(usual))
    if not (limit.isascii() and limit.isdigit() and len(limit) < 7 and 1 <= int(limit) <= most):
        raise invalid_field(f"`limit` must be 1 to {most}", "limit")
    order = given.get("order", "desc")
    if order not in ("asc", "desc"):
        raise invalid_field("`order` must be asc or desc", "order")
    after = given.get("after", "")
    if after and read_id(after, kind) is None:
        raise object_not_found("file" if kind == FILE else "batch", after, "after")
    purpose = given.get("purpose", "")
    if purpose and purpose not in (*PURPOSES, OUTPUT_PURPOSE):
        raise invalid_field("`purpose` is unknown", "purpose")
    return PageQuery(kind, int(limit), after, order == "desc", purpose)


def object_not_found(what: str, object_id: str, param: str | None = None) -> GatewayError:
    """Also told of what belongs to somebody else: nobody learns of others' work."""
    message = f"No such {what}: `{object_id[:100]}`. See GET /v1/{'files' if what == 'file' else 'batches'}."
    return GatewayError(404, Code.OBJECT_NOT_FOUND, message, param=param)


def known_id(text: str, kind: str) -> ObjectId:
    """From a URL. Raises GatewayError 404."""
    found = read_id(text, kind)
    if found is None:
        raise object_not_found("file" if kind == FILE else "batch", text)
    return found


def _metadata(given: Mapping[str, str]) -> Mapping[str, str]:
    if len(given) > METADATA_MAX:
        raise invalid_field(f"`metadata` holds at most {METADATA_MAX} pairs", "metadata")
    if any(len(key) > METADATA_KEY_MAX or len(value) > METADATA_VALUE_MAX for key, value in given.items()):
        message = f"keys of `metadata` have at most {METADATA_KEY_MAX} characters, values {METADATA_VALUE_MAX}"
        raise invalid_field(message, "metadata")
    return given

"""One request as the parser delivers it, and the checks that need nothing but its head."""

from __future__ import annotations

import httptools

from covey_gateway.core.errors import Code, GatewayError, bad_http, body_too_large, headers_too_large, invalid_field
from covey_gateway.core.front import DEADLINE_MS_MAX
from covey_gateway.core.pages import Route
from covey_gateway.core.paths import ENGINE_PATHS
from covey_gateway.core.sharing import CLASSES
from covey_gateway.io.http_upload import Upload

SMALL_PIECE_BYTES = 4096
"""Pieces of a body below this are put together as they come: a piece of its own costs some 60 bytes, and a body in
chunks of two bytes would take thirty times its size."""

SMALL_BODY_BYTES = 64 * 1024
"""Bodies up to this size are not counted against the common budget."""

READ = frozenset(
    "host origin authorization x-api-key content-length transfer-encoding expect x-covey-deadline-ms x-covey-priority"
    " access-control-request-headers".split()
)
"""Headers that decide something for an engine's request."""

SINGLE = {"content-length", "host", "transfer-encoding"}
"""Headers of which two would be ambiguous."""

_ENGINE_TARGETS = {path.encode(): path for path in ENGINE_PATHS}


NAMES_MAX = 512
NAME_BYTES_MAX = 64
_names: dict[bytes, str] = {}
"""Header names as they came -> in lower case; bounded by the two above."""


class HttpRequest:
    """`error` is what this request gets instead of service; `close` ends the connection after its answer.

    `length` is the body's where the head declares it, `route` and `tail` the page that serves it (None: an engine).
    """

    __slots__ = (
        "allow", "body", "chunked", "close", "complete", "error", "expects_continue", "header_bytes", "header_count",
        "headers", "length", "lines", "method", "path", "query", "repeated", "route", "size", "started_s", "tail",
        "taken", "upload", "upload_bytes_max", "url", "user", "version",
    )  # fmt: skip

    def __init__(self, started_s: float) -> None:
        self.started_s = started_s
        self.url = b""
        self.method = ""
        self.version = "1.1"
        self.path = ""
        self.query = ""
        self.lines: list[tuple[bytes, bytes]] = []
        self.headers: dict[str, str] = {}
        self.repeated: set[str] | None = None
        self.header_count = 0
        self.header_bytes = 0
        self.length: int | None = None
        self.chunked = False
        self.expects_continue = False
        self.body: list[bytes | bytearray] = []
        self.size = 0
        self.taken = 0
        self.complete = False
        self.close = False
        self.user = ""
        self.error: GatewayError | None = None
        self.allow = ""
        self.route: Route | None = None
        self.tail = ""
        self.upload_bytes_max = 0
        self.upload: Upload | None = None

    def following(self, started_s: float) -> HttpRequest:
        """A request for an engine with this one's head, whose body is still to come."""
        request = HttpRequest(started_s)
        request.method, request.version, request.user = self.method, self.version, self.user
        request.path, request.query = self.path, self.query
        request.headers = self.headers
        request.complete = True
        return request

    def read_headers(self) -> None:
        """`headers` from `lines`, and what they say of the body. For an engine only what is read here: a client of an
        engine sends a dozen more."""
        engines = self.method == "POST" and self.url in _ENGINE_TARGETS
        headers, size = self.headers, 0
        for name, value in self.lines:
            size += len(name) + len(value) + 4
            key = _names.get(name) or known_name(name)
            if engines and key not in READ:
                continue
            if key in headers:
                if self.repeated is None:
                    self.repeated = set()
                self.repeated.add(key)
                headers[key] += ", " + value.decode("latin-1")
            else:
                headers[key] = value.decode("latin-1")
        self.header_count = len(self.lines)
        self.header_bytes += size
        self.lines.clear()
        length = headers.get("content-length")
        if length is not None and length.isascii() and length.isdigit():
            self.length = int(length)
        self.chunked = "transfer-encoding" in headers
        self.expects_continue = self.version != "1.0" and headers.get("expect", "").lower() == "100-continue"

    def add_body(self, piece: bytes) -> None:
        last = self.body[-1] if self.body else None
        if len(piece) >= SMALL_PIECE_BYTES:
            self.body.append(piece)
        elif isinstance(last, bytearray):
            last += piece
        else:
            self.body.append(bytearray(piece))

    def take_body(self) -> bytes:
        body = bytes(self.body[0]) if len(self.body) == 1 else b"".join(self.body)
        self.body = []
        return body

    @property
    def unread(self) -> bool:
        """True while bytes of an upload are still to come: no further request can follow on the connection."""
        return self.upload is not None and not self.upload.ended

    @property
    def unbounded(self) -> bool:
        """True if the body is, or may become, more than a small one."""
        return self.chunked or (self.length is not None and self.length > SMALL_BODY_BYTES)

    def read_url(self) -> None:
        """Splits path and query; origin form, or absolute form as proxies send it. Raises GatewayError."""
        target = self.url
        self.path = _ENGINE_TARGETS.get(target, "")
        if self.path:
            return
        if not target.startswith(b"/"):
            try:
                parsed = httptools.parse_url(target)
            except httptools.HttpParserInvalidURLError:
                raise bad_http("the request target is not a URL") from None
            target = (parsed.path or b"/") + (b"?" + parsed.query if parsed.query else b"")
        path, _, query = target.partition(b"#")[0].partition(b"?")
        self.path, self.query = path.decode("latin-1"), query.decode("latin-1")

    def check_framing(self, body_bytes_max: int, header_count_max: int, header_bytes_max: int) -> None:
        """Raises GatewayError for what must not be served, request smuggling first of all (RFC 9112, section 6.3)."""
        headers = self.headers
        if self.version not in ("1.0", "1.1"):
            raise bad_http("only HTTP/1.1 and HTTP/1.0 are spoken here")
        if self.header_count > header_count_max or self.header_bytes > header_bytes_max:
            raise headers_too_large()
        if self.chunked and "content-length" in headers:
            raise bad_http("it has both Content-Length and Transfer-Encoding")
        if self.chunked and (headers["transfer-encoding"].strip().lower() != "chunked" or self.version == "1.0"):
            raise bad_http("the only Transfer-Encoding understood is chunked, in HTTP/1.1")
        if self.repeated is not None and self.repeated & SINGLE:
            raise bad_http("a header that must be single is repeated")
        if self.version != "1.0" and "host" not in headers:
            raise bad_http("the Host header is missing")
        if self.length is not None and self.length > body_bytes_max:
            raise body_too_large(body_bytes_max)
        if "expect" in headers and headers["expect"].lower() != "100-continue":
            raise GatewayError(417, Code.EXPECTATION_FAILED, "Only `Expect: 100-continue` is understood.")

    def deadline_s(self) -> float | None:
        """From x-covey-deadline-ms. Raises GatewayError."""
        given = self.headers.get("x-covey-deadline-ms")
        if given is None:
            return None
        if not (given.isascii() and given.isdigit() and len(given) <= 9 and 0 < int(given) <= DEADLINE_MS_MAX):
            raise invalid_field(f"x-covey-deadline-ms must be 1 to {DEADLINE_MS_MAX}", "x-covey-deadline-ms")
        return int(given) / 1000

    def priority(self) -> int | None:
        """From x-covey-priority; None without it. Raises GatewayError."""
        header = self.headers.get("x-covey-priority")
        if not header:
            return None
        given = header.lower()
        if given not in CLASSES:
            raise invalid_field("x-covey-priority must be interactive, normal or batch", "x-covey-priority")
        return CLASSES[given]


def known_name(name: bytes) -> str:
    """A header's name in lower case, remembered while there is room."""
    key = name.decode("latin-1").lower()
    if len(_names) < NAMES_MAX and len(name) <= NAME_BYTES_MAX:
        _names[name] = key
    return key

"""One request as the parser delivers it, and the checks that need nothing but its head."""

from __future__ import annotations

from dataclasses import dataclass, field

import httptools

from covey_gateway.core.errors import Code, GatewayError, bad_http, body_too_large, headers_too_large, invalid_field
from covey_gateway.core.front import DEADLINE_MS_MAX
from covey_gateway.core.sharing import CLASSES
from covey_gateway.io.http_upload import Upload

SMALL_PIECE_BYTES = 4096
"""Pieces of a body below this are put together as they come: a piece of its own costs some 60 bytes, and a body in
chunks of two bytes would take thirty times its size."""


@dataclass(slots=True)
class HttpRequest:
    """`error` is what this request gets instead of service; `close` ends the connection after its answer."""

    started_s: float
    url: bytes = b""
    method: str = ""
    version: str = "1.1"
    path: str = ""
    query: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    repeated: set[str] = field(default_factory=set)
    header_count: int = 0
    header_bytes: int = 0
    body: list[bytes | bytearray] = field(default_factory=list)
    size: int = 0
    taken: int = 0
    complete: bool = False
    close: bool = False
    user: str = ""
    error: GatewayError | None = None
    allow: str = ""
    upload_bytes_max: int = 0
    upload: Upload | None = None

    def add_header(self, name: bytes, value: bytes) -> None:
        key, headers = name.decode("latin-1").lower(), self.headers
        if key in headers:
            self.repeated.add(key)
            headers[key] += ", " + value.decode("latin-1")
        else:
            headers[key] = value.decode("latin-1")

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
    def expects_continue(self) -> bool:
        return self.headers.get("expect", "").lower() == "100-continue" and self.version != "1.0"

    @property
    def declared_length(self) -> int | None:
        length = self.headers.get("content-length")
        return int(length) if length is not None and length.isascii() and length.isdigit() else None

    @property
    def chunked(self) -> bool:
        return "transfer-encoding" in self.headers

    def read_url(self) -> None:
        """Splits path and query; origin form, or absolute form as proxies send it. Raises GatewayError."""
        target = self.url
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
        if self.repeated & {"content-length", "host", "transfer-encoding"}:
            raise bad_http("a header that must be single is repeated")
        if self.version != "1.0" and "host" not in headers:
            raise bad_http("the Host header is missing")
        if self.declared_length is not None and self.declared_length > body_bytes_max:
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
        given = self.headers.get("x-covey-priority", "").lower()
        if given and given not in CLASSES:
            raise invalid_field("x-covey-priority must be interactive, normal or batch", "x-covey-priority")
        return CLASSES.get(given)

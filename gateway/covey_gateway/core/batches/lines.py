"""The input file of a batch, checked line by line as its bytes come: what each line asks, or what is wrong with it.

Codes and words of the mistakes follow OpenAI's batch errors (`batch.errors.data`). Not here: the disk, and what an
engine thinks of a body.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from covey_gateway.core.batches.settings import BatchSettings

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
"""What the lines of a batch may ask."""

MODEL_CHARACTERS_MAX = 512


@dataclass(frozen=True, slots=True)
class InputLine:
    """One request of a batch, as a place in its input file. `number` counts from 1 and includes empty lines."""

    number: int
    offset: int
    length: int
    custom_id: str


@dataclass(frozen=True, slots=True)
class LineError:
    """One mistake; `line` is None where the file as a whole is meant."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class _Line(msgspec.Struct):
    custom_id: object = None
    method: object = None
    url: object = None
    body: msgspec.Raw = msgspec.Raw(b"")


class _Body(msgspec.Struct):
    model: object = None
    stream: object = None


_line = msgspec.json.Decoder(_Line)
_body = msgspec.json.Decoder(_Body)


class _Wrong(Exception):
    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        self.error = (code, message, param)


def body_of(line: bytes) -> bytes:
    """The request in a line that was checked before."""
    return bytes(_line.decode(line).body)


class InputChecker:
    """Feed the file in pieces; `errors` is bounded, and `stopped` says that reading on is of no use."""

    def __init__(self, endpoint: str, settings: BatchSettings) -> None:
        self.errors: list[LineError] = []
        self.total = 0
        self.model = ""
        self.stopped = False
        self._endpoint = endpoint
        self._settings = settings
        self._rest = bytearray()
        self._offset = 0
        self._number = 0
        self._seen: set[str] = set()

    def feed(self, piece: bytes) -> list[InputLine]:
        """The good lines that end in this piece."""
        self._rest += piece
        found: list[InputLine] = []
        *whole, rest = self._rest.split(b"\n") if b"\n" in piece else (self._rest,)
        for line in whole:
            self._take(bytes(line), len(line) + 1, found)
        self._rest = rest
        if len(rest) > self._settings.line_bytes_max and not self.stopped:
            self._wrong("invalid_request", f"This line is longer than {self._settings.line_bytes_max} bytes.", None, 1)
            self.stopped = True
        return [] if self.stopped else found

    def end(self) -> list[InputLine]:
        """The file is complete: its last line may lack a line break."""
        found: list[InputLine] = []
        if self._rest:
            self._take(bytes(self._rest), len(self._rest), found)
            self._rest = bytearray()
        if not self.total and not self.errors:
            self.errors.append(LineError("empty_file", "The input file holds no requests."))
        return [] if self.stopped else found

    def _take(self, line: bytes, taken: int, found: list[InputLine]) -> None:
        if self.stopped:
            return
        self._number += 1
        start = 3 if self._number == 1 and line.startswith(BYTE_ORDER_MARK) else 0
        content = line[start:].strip()
        if content:
            try:
                custom_id = self._checked(content)
            except _Wrong as wrong:
                self._wrong(*wrong.error)
            else:
                self.total += 1
                found.append(InputLine(self._number, self._offset + line.index(content), len(content), custom_id))
            if self.total > self._settings.lines_max:
                self._wrong("too_many_tasks", f"The file holds more than {self._settings.lines_max} requests.")
                self.stopped = True
        self._offset += taken

    def _checked(self, content: bytes) -> str:
        try:
            content.decode()
            line = _line.decode(content)
        except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
            raise _Wrong("invalid_json_line", "This line is not parseable as valid JSON.") from None
        custom_id = self._custom_id(line)
        if line.method != "POST":
            raise _Wrong(*_absent_or("method", line.method, "must be `POST`"), "method")
        if line.url != self._endpoint:
            message = f"The URL of this line must be the batch's endpoint, `{self._endpoint}`."
            raise _Wrong("missing_required_parameter" if line.url is None else "url_mismatch", message, "url")
        self._check_body(bytes(line.body))
        self._seen.add(custom_id)
        return custom_id

    def _custom_id(self, line: _Line) -> str:
        custom_id = line.custom_id
        most = self._settings.custom_id_characters_max
        if not isinstance(custom_id, str) or not 0 < len(custom_id) <= most:
            raise _Wrong(*_absent_or("custom_id", custom_id, f"must be a text of 1 to {most} characters"), "custom_id")
        if custom_id in self._seen:
            raise _Wrong("duplicate_custom_id", "The custom_id of this line was used before in this file.", "custom_id")
        return custom_id

    def _check_body(self, raw: bytes) -> None:
        if not raw.startswith(b"{"):
            raise _Wrong("missing_required_parameter", "This line has no `body`, or one that is no object.", "body")
        if len(raw) > self._settings.body_bytes_max:
            raise _Wrong("invalid_request", f"The body is larger than {self._settings.body_bytes_max} bytes.", "body")
        try:
            body = _body.decode(raw)
        except (msgspec.DecodeError, RecursionError):
            raise _Wrong("invalid_json_line", "This line is not parseable as valid JSON.") from None
        if not isinstance(body.model, str) or not 0 < len(body.model) <= MODEL_CHARACTERS_MAX:
            raise _Wrong(*_absent_or("body.model", body.model, "must be the name of a model"), "body.model")
        if body.stream:
            raise _Wrong("invalid_request", "Answers of a batch cannot be streamed: leave out `stream`.", "body.stream")
        if self.model and body.model != self.model:
            message = f"All lines of a batch ask one model; the first asked for `{self.model[:200]}`."
            raise _Wrong("model_mismatch", message, "body.model")
        self.model = body.model

    def _wrong(self, code: str, message: str, param: str | None = None, ahead: int = 0) -> None:
        self.errors.append(LineError(code, message, self._number + ahead, param))
        if len(self.errors) >= self._settings.errors_reported_max:
            self.stopped = True


def _absent_or(name: str, value: object, must: str) -> tuple[str, str]:
    if value is None:
        return "missing_required_parameter", f"This line lacks `{name}`."
    return "invalid_request", f"`{name}` {must}."

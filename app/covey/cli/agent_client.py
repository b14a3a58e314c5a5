"""HTTP to an agent: this machine's own over its Unix socket, or any other by URL. Standard library only."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from covey.errors import ExitCode, RefusedError, UserError
from covey.running import running_agent

ANSWER_TIMEOUT_S = 30.0
STREAM_TIMEOUT_S = 300.0
TRANSFER_TIMEOUT_S = 60.0
"""Longest silence while a file is sent or fetched."""

PIECE_BYTES = 256 * 1024


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class AgentClient:
    """One agent. Every call makes its own connection."""

    def __init__(self, where: str, unix_path: str = "", url: str = "", key: str = "") -> None:
        self.where = where
        self._unix_path = unix_path
        self._url = urlsplit(url)
        self._headers = {"content-type": "application/json"}
        if key:
            self._headers["authorization"] = f"Bearer {key}"

    @classmethod
    def local(cls, state_dir: Path) -> AgentClient:
        found = running_agent(state_dir)
        if found is None:
            raise UserError(
                "no covey agent is running here",
                "start one with `covey up`, or name one with --endpoint URL",
                ExitCode.NO_AGENT,
            )
        return cls("this machine's agent", unix_path=found.socket)

    @classmethod
    def at(cls, url: str, key: str) -> AgentClient:
        whole = url if "://" in url else f"http://{url}"
        parts = urlsplit(whole)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"{url} is no HTTP address", "give something like http://covey.local:8080", ExitCode.USAGE)
        return cls(whole, url=whole, key=key)

    @property
    def is_local(self) -> bool:
        return bool(self._unix_path)

    def get(self, path: str) -> Any:
        return self._call("GET", path, None)

    def post(self, path: str, body: Mapping[str, Any], timeout_s: float = ANSWER_TIMEOUT_S) -> Any:
        return self._call("POST", path, body, timeout_s)

    def stream(self, path: str, body: Mapping[str, Any]) -> Stream:
        """Server-sent events of one answer; raises UserError where the agent refuses."""
        connection, response = self._send("POST", path, body, STREAM_TIMEOUT_S)
        if response.status != 200:
            with contextlib.closing(connection):
                raise self._refusal(response.status, response.read(), path)
        return Stream(connection, response)

    def send_file(self, path: str, fields: Mapping[str, str], file: Path, told: Callable[[int], None]) -> Any:
        """Upload `file` as a form, piece by piece; `told` hears how many bytes have left."""
        boundary = uuid.uuid4().hex
        before, after = _form(boundary, fields, file.name)
        length = len(before) + file.stat().st_size + len(after)
        headers = {
            **self._headers,
            "content-type": f"multipart/form-data; boundary={boundary}",
            "content-length": str(length),
        }
        with file.open("rb") as source:
            pieces = _pieces(before, source, after, told)
            connection, response = self._request("POST", path, pieces, headers, TRANSFER_TIMEOUT_S)
            return self._read(connection, response, path)

    def save(self, path: str, target: Path) -> int:
        """Write the answer to a file, which appears complete or not at all; its size."""
        connection, response = self._send("GET", path, None, TRANSFER_TIMEOUT_S)
        with contextlib.closing(connection):
            if response.status >= 400:
                raise self._refusal(response.status, response.read(), path)
            part = target.with_name(f"{target.name}.part")
            try:
                with part.open("wb") as file:
                    while piece := self._piece(response):
                        file.write(piece)
                    size = file.tell()
                part.replace(target)
            except OSError as error:
                raise UserError(f"cannot write {target}: {error.strerror}", "choose another place") from None
            finally:
                part.unlink(missing_ok=True)
        return size

    def _piece(self, response: http.client.HTTPResponse) -> bytes:
        """Empty at the end of the whole answer; raises UserError where it broke off before."""
        try:
            piece = response.read(PIECE_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from None
        if not piece and response.length:
            raise UserError(f"what {self.where} sent broke off", "ask again")
        return piece

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None, timeout_s: float = ANSWER_TIMEOUT_S) -> Any:
        connection, response = self._send(method, path, body, timeout_s)
        return self._read(connection, response, path)

    def _read(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse, path: str) -> Any:
        with contextlib.closing(connection):
            try:
                content = response.read()
            except (OSError, http.client.HTTPException) as error:
                raise self._unreachable(error) from None
        if response.status >= 400:
            raise self._refusal(response.status, content, path)
        try:
            return json.loads(content)
        except ValueError:
            raise UserError(f"{self.where} answered {path} with something other than JSON: is it covey?") from None

    def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None, timeout_s: float
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        content = None if body is None else json.dumps(body).encode()
        return self._request(method, path, content, self._headers, timeout_s)

    def _request(
        self,
        method: str,
        path: str,
        content: bytes | Iterator[bytes] | None,
        headers: Mapping[str, str],
        timeout_s: float,
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = self._connection(timeout_s)
        try:
            where = self._url.path.rstrip("/").removesuffix("/v1") + path
            try:
                connection.request(method, where, content, dict(headers))
            except (BrokenPipeError, ConnectionResetError):
                # Refused before all was sent: the answer tells why, if it can still be read.
                if connection.sock is None:
                    raise
            return connection, connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._unreachable(error) from None

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        if self._unix_path:
            return _UnixConnection(self._unix_path, timeout_s)
        kind = http.client.HTTPSConnection if self._url.scheme == "https" else http.client.HTTPConnection
        return kind(self._url.hostname or "", self._url.port, timeout=timeout_s)

    def _unreachable(self, error: Exception) -> UserError:
        return UserError(
            f"{self.where} does not answer ({error})",
            "see whether it runs: `covey ps`, `covey doctor`",
            ExitCode.NO_AGENT,
        )

    def _refusal(self, status: int, content: bytes, path: str) -> RefusedError:
        try:
            message = str(json.loads(content)["error"]["message"])
        except (ValueError, KeyError, TypeError):
            message = f"HTTP {status} for {path}"
        next_step = "set COVEY_API_KEY to a key of this pool" if status in (401, 403) and not self.is_local else ""
        if status == 404 and path.startswith("/v1/batches/"):
            next_step = "`covey batch --list` shows those that there are; a key sees its own only"
        return RefusedError(message, next_step, ExitCode.NOT_FOUND if status == 404 else ExitCode.FAILED, status)


def _form(boundary: str, fields: Mapping[str, str], filename: str) -> tuple[bytes, bytes]:
    """What comes before and after the file's bytes in multipart/form-data (RFC 7578)."""
    name = "".join(c for c in filename if c.isprintable() and c not in '"\\')
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'
        for field, value in fields.items()
    ]
    parts.append(f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n')
    return "".join(parts).encode(), f"\r\n--{boundary}--\r\n".encode()


def _pieces(before: bytes, source: BinaryIO, after: bytes, told: Callable[[int], None]) -> Iterator[bytes]:
    yield before
    sent = 0
    while piece := source.read(PIECE_BYTES):
        yield piece
        sent += len(piece)
        told(sent)
    yield after


class Stream:
    """Parsed events of a streamed answer; `headers` came with it."""

    def __init__(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        self._connection = connection
        self._response = response
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in response.getheaders()}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        try:
            with contextlib.closing(self._connection):
                for line in self._response:
                    if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
                        event = json.loads(line[6:])
                        if "error" in event:
                            raise UserError(str(event["error"].get("message", event["error"])))
                        yield event
        except (OSError, http.client.HTTPException) as error:
            raise UserError(f"the answer broke off ({error})", "ask again") from None

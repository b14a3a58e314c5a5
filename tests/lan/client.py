"""HTTP and raw sockets from a host of a lab, without a process there: a socket keeps the namespace it was made in."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from tests.lan.lab import Host
from tests.lan.namespaces import inside_namespace

from covey.cli.agent_client import STREAM_TIMEOUT_S, AgentClient

SOCKET_TIMEOUT_S = 5.0
BYTES_READ_MAX = 64 * 1024


def inside(host: Host) -> AbstractContextManager[None]:
    """Sockets that this thread makes meanwhile are the host's. Other threads are not affected."""
    return inside_namespace(host.namespace)


class _HostConnection(http.client.HTTPConnection):
    def __init__(self, host: Host, address: str, port: int, timeout_s: float) -> None:
        super().__init__(address, port, timeout=timeout_s)
        self._from = host

    def connect(self) -> None:
        with inside(self._from):
            super().connect()


class HostClient(AgentClient):
    """A client program on `host` that asks `address`, HOST:PORT."""

    def __init__(self, host: Host, address: str, key: str = "") -> None:
        super().__init__(f"{address} from {host.name}", url=f"http://{address}", key=key)
        self._from = host

    def whole(self, path: str, body: Mapping[str, Any]) -> tuple[Mapping[str, str], Any]:
        """Headers and JSON of an answer that is not streamed; raises UserError where the agent refuses."""
        connection, response = self._send("POST", path, body, STREAM_TIMEOUT_S)
        with contextlib.closing(connection):
            content = response.read()
        if response.status != 200:
            raise self._refusal(response.status, content, path)
        return {name.lower(): value for name, value in response.getheaders()}, json.loads(content)

    def status(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> int:
        """The status code alone."""
        connection, response = self._send(method, path, body, STREAM_TIMEOUT_S)
        with contextlib.closing(connection):
            return response.status

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        return _HostConnection(self._from, self._url.hostname or "", self._url.port or 80, timeout_s)


@dataclass(frozen=True)
class Answered:
    """One chat that ended well."""

    machine: str
    text: str
    attempts: int
    request_id: str


def chat(
    client: HostClient,
    model: str,
    *,
    prompt: str = "Hello",
    max_tokens: int = 8,
    stream: bool = True,
    temperature: float = 1.0,
) -> Answered:
    """One chat to its end. Raises UserError where it is refused or breaks off."""
    path, body = "/v1/chat/completions", {"model": model, "messages": [{"role": "user", "content": prompt}]}
    body |= {"max_tokens": max_tokens, "stream": stream, "temperature": temperature}
    if stream:
        answer = client.stream(path, body)
        headers = answer.headers
        text = "".join(c["delta"].get("content") or "" for event in answer for c in event.get("choices", []))
    else:
        headers, content = client.whole(path, body)
        text = "".join(c["message"]["content"] for c in content["choices"])
    return Answered(headers["x-covey-node"], text, int(headers["x-covey-attempts"]), headers["x-request-id"])


def exchange(host: Host, address: str, port: int, said: bytes, tls: ssl.SSLContext | None = None) -> bytes:
    """What `address` answers to these bytes, until it closes or SOCKET_TIMEOUT_S of silence pass.

    Raises OSError (refused, reset) and ssl.SSLError.
    """
    with inside(host):
        plain = socket.create_connection((address, port), timeout=SOCKET_TIMEOUT_S)
    with contextlib.closing(plain if tls is None else tls.wrap_socket(plain, server_hostname="covey")) as opened:
        opened.sendall(said)
        heard = b""
        with contextlib.suppress(TimeoutError):
            while len(heard) < BYTES_READ_MAX and (piece := opened.recv(4096)):
                heard += piece
        return heard

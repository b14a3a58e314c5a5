"""One request over a fresh connection, observed to its end. It trusts nothing: framing, events, order are checked."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from typing import Any

from tests.lan.chaos.kinds import CHAT, KINDS, Kind
from tests.lan.chaos.observation import Ended, MalformedError, Observation

SILENCE_S_MAX = 45.0
"""Longer than any fault of a scenario lasts: who says nothing for so long has forgotten the request."""
CONNECT_S_MAX = 5.0
HEAD_BYTES_MAX = 64 * 1024


class Asking:
    """Fills one Observation. `connect` makes a socket in the right network namespace."""

    def __init__(self, observation: Observation) -> None:
        self.observation = observation
        self._kind: Kind = KINDS[observation.kind]
        self._done = False
        self._answer_id: str | None = None
        self._rest = b""

    async def run(self, made: socket.socket, address: tuple[str, int], body: bytes) -> Observation:
        """Never raises for what the other side does."""
        seen = self.observation
        writer: asyncio.StreamWriter | None = None
        try:
            made.setblocking(False)
            async with asyncio.timeout(CONNECT_S_MAX):
                await asyncio.get_running_loop().sock_connect(made, address)
            reader, writer = await asyncio.open_connection(sock=made)
            seen.ended = Ended.CUT
            head = f"POST {self._kind.path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            writer.write(f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
            await self._answer(reader)
        except TimeoutError:
            seen.ended = Ended.UNREACHABLE if writer is None else Ended.SILENT
        except MalformedError as error:
            seen.ended, seen.detail = Ended.MALFORMED, str(error)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            told = f"without the last chunk after the error event {seen.code}: {seen.detail}: " if seen.code else ""
            seen.detail = told + repr(error)
        finally:
            seen.ended_s = time.time()
            if writer is None:
                made.close()
            else:
                writer.transport.abort()
        return seen

    async def _answer(self, reader: asyncio.StreamReader) -> None:
        async with asyncio.timeout(SILENCE_S_MAX):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        seen = self.observation
        seen.status = int(head[0].split()[1])
        seen.request_id, seen.machine = headers.get("x-request-id", ""), headers.get("x-covey-node", "")
        seen.attempts, seen.why = int(headers.get("x-covey-attempts", "0")), headers.get("x-covey-why", "")
        seen.retry_after = headers.get("retry-after", "")
        if "content-length" in headers:
            async with asyncio.timeout(SILENCE_S_MAX):
                self._whole(await reader.readexactly(int(headers["content-length"])))
        elif headers.get("transfer-encoding") != "chunked":
            raise MalformedError("neither a length nor chunks")
        elif headers.get("content-type", "").startswith("text/event-stream"):
            await self._stream(reader)
        else:
            self._whole(b"".join([chunk async for chunk in _chunks(reader)]))

    # --- not streamed ------------------------------------------------------------------------------------------------

    def _whole(self, body: bytes) -> None:
        seen = self.observation
        try:
            content = json.loads(body)
            if seen.status != 200:
                self._refused(content["error"])
                return
            (choice,) = content["choices"]
            seen.text = choice["message"]["content"] if self._kind.path == CHAT else choice["text"]
            seen.finishes = int(bool(choice["finish_reason"]))
            seen.output_tokens = content["usage"]["completion_tokens"]
            seen.continued = int(content.get("covey", {}).get("continued", 0))
        except (ValueError, KeyError, TypeError) as error:
            raise MalformedError(f"{error!r} in {body[:200]!r}") from error
        seen.ended = Ended.FINISHED

    def _refused(self, error: dict[str, Any]) -> None:
        seen = self.observation
        seen.ended, seen.detail, seen.code = Ended.REFUSED, str(error["message"]), str(error["code"])

    # --- streamed ----------------------------------------------------------------------------------------------------

    async def _stream(self, reader: asyncio.StreamReader) -> None:
        seen = self.observation
        if seen.status != 200:
            raise MalformedError(f"a stream of status {seen.status}")
        async for chunk in _chunks(reader):
            *events, self._rest = (self._rest + chunk).split(b"\n\n")
            for event in events:
                self._event(event)
        if self._rest:
            raise MalformedError(f"half an event at the end: {self._rest[:200]!r}")
        if self._done and seen.code == "":
            seen.ended = Ended.FINISHED
        elif seen.code:
            seen.ended = Ended.ERROR_EVENT
        else:
            seen.detail = "the stream ended well-formed, without [DONE] and without an error"

    def _event(self, event: bytes) -> None:
        seen = self.observation
        data = event.removeprefix(b"data: ")
        if self._done or seen.code:
            raise MalformedError(f"after the end came {event[:200]!r}")
        if data == b"[DONE]":
            self._done = True
            return
        try:
            content = json.loads(data)
            if "error" in content:
                seen.code = str(content["error"]["code"])
                seen.detail = str(content["error"]["message"])
                return
            self._chunk(content)
        except (ValueError, KeyError, TypeError) as error:
            raise MalformedError(f"{error!r} in {event[:200]!r}") from error

    def _chunk(self, content: dict[str, Any]) -> None:
        seen = self.observation
        self._answer_id = self._answer_id or content["id"]
        if content["id"] != self._answer_id:
            raise MalformedError(f"the answer's id changed from {self._answer_id} to {content['id']}")
        seen.continued = max(seen.continued, int(content.get("covey", {}).get("continued", 0)))
        if content.get("usage"):
            seen.output_tokens = content["usage"]["completion_tokens"]
        for choice in content["choices"]:
            piece = choice["delta"].get("content") if self._kind.path == CHAT else choice["text"]
            if piece:
                seen.note_piece(piece)
            seen.finishes += bool(choice["finish_reason"])


async def _chunks(reader: asyncio.StreamReader) -> Any:
    """HTTP/1.1 chunks until the last. Raises IncompleteReadError where they end early, TimeoutError on silence."""
    while True:
        async with asyncio.timeout(SILENCE_S_MAX):
            size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
            chunk = await reader.readexactly(size + 2)
        if not chunk.endswith(b"\r\n"):
            raise MalformedError("a chunk without its end")
        if size == 0:
            return
        yield chunk[:-2]

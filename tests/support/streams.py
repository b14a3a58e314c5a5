"""A streamed answer as a client reads it, and the undisturbed one to compare it with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tests.support.gateway import B, FakeClient
from tests.support.gateway_pool import CHAT, Pool
from tests.support.simulated_attempt import SimulatedAttempt

TEXT = "/v1/completions"
TOKENS = 9


@dataclass
class Told:
    """A client's stream, read."""

    text: str
    roles: int
    finishes: list[str]
    usage: dict[str, int] | None
    flag: dict[str, Any] | None
    identities: set[tuple[str, str]]
    done: bool
    error: dict[str, Any] | None


def read(client: FakeClient) -> Told:
    told = Told("", 0, [], None, None, set(), False, None)
    for raw in client.body.decode().split("\n\n")[:-1]:
        data = raw.removeprefix("data: ")
        assert not told.done, "an event after [DONE]"
        if data == "[DONE]":
            told.done = True
            continue
        event = json.loads(data)
        if "error" in event:
            told.error = event["error"]
            continue
        told.identities.add((event["id"], event["object"]))
        told.usage = event.get("usage") or told.usage
        told.flag = event.get("covey") or told.flag
        for choice in event["choices"]:
            part = choice.get("delta", choice)
            told.text += part.get("content") or part.get("text") or ""
            told.roles += "role" in part
            told.finishes += [choice["finish_reason"]] if choice.get("finish_reason") else []
    return told


def fields(path: str, **more: Any) -> dict[str, Any]:
    asked: dict[str, Any] = {"stream": True, "max_tokens": TOKENS, "stream_options": {"include_usage": True}, **more}
    return asked if path == CHAT else {**asked, "messages": None, "prompt": "Once upon a"}


def undisturbed(path: str) -> Told:
    pool = Pool()
    client, _ = pool.submit(path=path, **fields(path))
    SimulatedAttempt(pool.mesh.assign(B)).finish()
    told = read(client)
    assert told.flag is None
    return told

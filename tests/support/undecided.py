"""Two answers of a real engine at temperature 0: equal, or parted where the model itself was undecided.

An engine rounds the same numbers otherwise in another batch, on another processor, or when a beginning comes out of its
cache (bfloat16 keeps 8 bits). So a text is held against the log probabilities of the other one's tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

UNDECIDED_NATS = 0.15
"""Between the log probabilities of the two best tokens; below it, rounding may turn them around."""
TEXT_PATH = "/v1/completions"


@dataclass(frozen=True, slots=True)
class EngineAnswer:
    """What an engine itself answers; `leads`: each token, and by how many nats it led the second best."""

    text: str
    leads: list[tuple[str, float]]

    def told_by(self, found: str) -> bool:
        """True if `found` is this text; False if it parts from it where the two best tokens were as good as equally
        likely. AssertionError if it parts anywhere else."""
        if found == self.text:
            return True
        parted = next((i for i, (a, b) in enumerate(zip(found, self.text, strict=False)) if a != b), len(self.text))
        position = 0
        for token, lead in self.leads:
            position += len(token)
            if position > parted:
                around = found[max(0, parted - 20) : parted + 20]
                assert lead < UNDECIDED_NATS, f"parted at {token!r}, which led by {lead:.3f}: {around!r}"
                return False
        raise AssertionError(f"goes on after the end: {found[parted:]!r}")


def engine_answer(socket: Path, path: str, body: dict[str, Any]) -> EngineAnswer:
    """Asks the engine on this Unix socket. `body`: a chat or completion at temperature 0."""
    logprobs = {"logprobs": 2} if path == TEXT_PATH else {"logprobs": True, "top_logprobs": 2}
    whole = {**body, **logprobs, "stream": False, "stream_options": None}
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), timeout=120) as direct:
        choice = direct.post(f"http://engine{path}", json=whole).raise_for_status().json()["choices"][0]
    found = choice["logprobs"]
    if path == TEXT_PATH:
        ranked = [sorted(each.values(), reverse=True) for each in found["top_logprobs"]]
        leads = [(token, each[0] - each[1]) for token, each in zip(found["tokens"], ranked, strict=True)]
        return EngineAnswer(choice["text"], leads)
    ranked = [sorted((t["logprob"] for t in each["top_logprobs"]), reverse=True) for each in found["content"]]
    leads = [(each["token"], two[0] - two[1]) for each, two in zip(found["content"], ranked, strict=True)]
    return EngineAnswer(choice["message"]["content"], leads)

"""Which texts a real model may answer at temperature 0: the ones it has told undisturbed, or one that parts from them
only where the model itself was undecided.

Engines round the same numbers otherwise in other batches, and otherwise when they read a beginning than when they write
it (bfloat16 keeps 8 bits). So a text that is none of the known ones is given to an engine to read: from where it parts
on, each of its tokens must be the best or as good as the best. A token that came twice or is missing is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import httpx
from tests.lan.chaos.judging import Told
from tests.lan.chaos.kinds import CHAT, KINDS, Kind
from tests.lan.chaos.observation import Ended, Observation
from tests.support.undecided import UNDECIDED_NATS

ENGINE_TIMEOUT_S = 120.0


class KnownTexts:
    """`engine`: the Unix socket of an engine that runs now."""

    def __init__(self, undisturbed: Iterable[Observation], engine: Callable[[], Path]) -> None:
        self._engine = engine
        self._known: dict[tuple[str, int], dict[str, int]] = {}
        self.parted = 0
        """Answers that were none of the known texts, and sound."""
        for seen in undisturbed:
            assert seen.output_tokens is not None
            self._known.setdefault((seen.kind, seen.prompt_number), {})[seen.text] = seen.output_tokens

    def expected(self, seen: Observation) -> tuple[Told, str]:
        """The text to hold it to, and where it is none that the model would write: why not."""
        known = self._known[seen.kind, seen.prompt_number]
        for text, tokens in known.items():
            if text == seen.text or (seen.ended is not Ended.FINISHED and text.startswith(seen.text)):
                return Told(text, tokens), ""
        nearest = max(known, key=lambda text: common(text, seen.text))
        if nearest.startswith(seen.text):
            return Told(nearest, known[nearest]), ""
        parts_at = common(nearest, seen.text)
        doubt = unlikely(self._engine(), KINDS[seen.kind], seen.prompt_number, seen.text, parts_at)
        if doubt:
            return Told(nearest, known[nearest]), doubt
        self.parted += 1
        if seen.ended is Ended.FINISHED and seen.output_tokens:
            known[seen.text] = seen.output_tokens
        return Told(seen.text, seen.output_tokens or 0), ""


def common(one: str, other: str) -> int:
    """Characters until they part."""
    both = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(both) if a != b), min(len(one), len(other)))


def unlikely(engine: Path, kind: Kind, prompt_number: int, text: str, from_character: int) -> str:
    """The first token from there on that the model would not write after what precedes it; "" if there is none."""
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(engine)), timeout=ENGINE_TIMEOUT_S) as client:

        def ask(path: str, **body: Any) -> Any:
            return client.post(f"http://engine{path}", json=body).raise_for_status().json()

        tokens = ask("/tokenize", model=kind.served_model, **_read(kind, prompt_number, text))["tokens"]
        length = len(ask("/tokenize", model=kind.served_model, **_read(kind, prompt_number, None))["tokens"])
        read = {"prompt": tokens, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 1}
        (choice,) = ask("/v1/completions", model=kind.served_model, **read)["choices"]
    return behind(tokens[length:], choice["prompt_logprobs"][length:], from_character)


def behind(tokens: list[int], told: list[dict[str, dict[str, Any]]], from_character: int) -> str:
    """`told`: for each token the log probabilities of itself and of the best, by token id. Pure."""
    character = 0
    for token, candidates in zip(tokens, told, strict=True):
        own = candidates[str(token)]
        character += len(own["decoded_token"])
        best = max(candidates.values(), key=lambda candidate: float(candidate["logprob"]))
        lead = float(best["logprob"]) - float(own["logprob"])
        if character > from_character and lead >= UNDECIDED_NATS:
            shown = f"{own['decoded_token']!r} at character {character}"
            return f"{shown} lies {lead:.2f} nats behind {best['decoded_token']!r}"
    return ""


def _read(kind: Kind, prompt_number: int, text: str | None) -> dict[str, Any]:
    """The question of /tokenize: the prompt, and after it the text where there is one."""
    prompt = kind.prompt(prompt_number)
    if kind.path != CHAT:
        return {"prompt": prompt + (text or "")}
    messages = [{"role": "user", "content": prompt}]
    if text is None:
        return {"messages": messages, "add_generation_prompt": True}
    messages.append({"role": "assistant", "content": text})
    return {"messages": messages, "add_generation_prompt": False, "continue_final_message": True}

"""A client's request as independent units, and the request for each part of them.

A unit is one input of an embedding request, or one text to write: prompt x n + choice, as OpenAI and vLLM number
`index`. Every field that covey does not name stays as it is, and elements stay raw bytes: floats, strings and token ids
are never decoded.

Cut choices keep their seeds: vLLM gives choice i the seed + i (v1/engine/parallel_sampling.py), so the part that begins
at choice i is asked for with the seed + i and writes what the whole request would have written.

Not here: where to cut (covey_scheduler.core.sharding), how answers become one (merging.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from covey_gateway.core.paths import ENGINE_PATHS, PathKind
from covey_gateway.core.routing_fields import CHOICES_MAX, RoutingFields
from covey_scheduler.core.sharding import Part

CUT_PATHS = frozenset({"/v1/embeddings", "/v1/completions", "/v1/chat/completions"})

UNITS_MAX = 65_536
"""A request with more is left whole."""

REPEATED_BYTES_MAX = 1024 * 1024
"""Every choice's part carries the whole prompt: larger bodies are not cut by choices."""

WHOLE_FIELDS = (
    "best_of",
    "use_beam_search",
    "request_id",
    "kv_transfer_params",
    "ec_transfer_params",
    "prompt_embeds",
)
"""With one of these, choices are no independent parts, or parts with the same value would get in each other's way."""

SEED_MAX = 2**63 - 1
_NEUTRAL = (b"null", b"false", b"[]", b"{}", b"0", b"1")
_ENCODINGS = (b"null", b'"float"', b'"base64"')

_fields_of = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_elements_of = msgspec.json.Decoder(list[msgspec.Raw]).decode


@dataclass(frozen=True, slots=True)
class Units:
    """A request that can be cut. `elements` are its inputs or prompts, raw; empty for chat and for a single prompt,
    where only choices are cut. `seed` None: the client gave none."""

    path: str
    choices: int
    seed: int | None
    elements: list[msgspec.Raw]
    streaming: bool
    _fields: dict[str, msgspec.Raw] = field(repr=False)

    @property
    def embeds(self) -> bool:
        return ENGINE_PATHS[self.path] is PathKind.EMBEDDING

    @property
    def prompts(self) -> int:
        return max(1, len(self.elements))

    @property
    def count(self) -> int:
        return self.prompts * self.choices

    @property
    def noun(self) -> str:
        """What a client calls a unit."""
        if self.embeds:
            return "input"
        return "prompt" if self.choices == 1 else "choice"

    def prompt_tokens(self, part: Part, bytes_per_token: float) -> list[int]:
        """About, of each prompt or input of this part; empty where the request has only one."""
        return [_tokens(each, bytes_per_token) for each in self._elements(part)]

    def text_bytes(self, part: Part) -> int:
        """Of the texts of this part, as JSON; 0 for token ids, and where the request has only one prompt."""
        elements = self._elements(part)
        if not elements or bytes(memoryview(elements[0])[:1]) != b'"':
            return 0
        return sum(len(memoryview(each)) for each in elements)

    def first_choices(self, part: Part) -> bool:
        """True if the part holds its prompts' first choices: its usage counts those prompts."""
        return part.begin % self.choices == 0

    def body(self, part: Part) -> bytes:
        """The request for these units alone. `part` is whole prompts or lies within one."""
        changed = dict(self._fields)
        elements = self._elements(part)
        if elements:
            changed[self._list_name] = self._list(elements)
        offset, size = part.begin % self.choices, part.end - part.begin
        if offset or size < self.choices:
            changed.pop("n", None)
            if size > 1:
                changed["n"] = msgspec.Raw(b"%d" % size)
            if self.seed is not None:
                changed["seed"] = msgspec.Raw(b"%d" % (self.seed + offset))
        return msgspec.json.encode(changed)

    @property
    def _list_name(self) -> str:
        return "input" if self.embeds else "prompt"

    def _elements(self, part: Part) -> list[msgspec.Raw]:
        first, last = part.begin // self.choices, -(-part.end // self.choices)
        return self.elements[first:last]

    def _list(self, elements: list[msgspec.Raw]) -> msgspec.Raw:
        """One prompt alone is no list: its answer can then be continued elsewhere (continuation.py)."""
        if len(elements) == 1 and not self.embeds:
            return elements[0]
        return msgspec.Raw(b"[" + b",".join(map(bytes, elements)) + b"]")


def units_of(path: str, body: bytes, routing: RoutingFields) -> Units | None:
    """The request as units, or None where it must stay whole. `routing` was read from `body`, which is valid JSON.

    Only called for requests with lists or several choices; the body's top level is read once more here, strings and
    numbers in it are skipped over.
    """
    embeds = ENGINE_PATHS.get(path) is PathKind.EMBEDDING
    if path not in CUT_PATHS or (embeds and routing.streaming) or routing.units_most > 4 * UNITS_MAX:
        return None
    found = _fields_of(body)
    if not _independent(found, embeds, routing.choices):
        return None
    elements = _list_elements(found.get("input" if embeds else "prompt"), path)
    choices = 1 if embeds else routing.choices
    if choices >= CHOICES_MAX:
        # More were asked for than were counted: how many is the engine's to judge.
        return None
    if choices > 1 and (len(body) > REPEATED_BYTES_MAX or not _sampled(found)):
        return None
    seed = msgspec.Raw(b"null") if choices == 1 else found.get("seed", msgspec.Raw(b"null"))
    if not _shareable(bytes(seed), choices):
        return None
    kept = int(bytes(seed)) if bytes(seed).isdigit() else None
    units = Units(path, choices, kept, elements, routing.streaming, found)
    return units if 1 < units.count <= UNITS_MAX else None


def _independent(found: dict[str, msgspec.Raw], embeds: bool, choices: int) -> bool:
    if any(name in found and bytes(found[name]) not in _NEUTRAL for name in WHOLE_FIELDS):
        return False
    return not embeds or bytes(found.get("encoding_format", msgspec.Raw(b"null"))) in _ENCODINGS


def _sampled(found: dict[str, msgspec.Raw]) -> bool:
    """vLLM refuses several choices without sampling (SamplingParams, greedy): its own word then, from one machine."""
    try:
        return float(bytes(found.get("temperature", b"1"))) != 0
    except ValueError:
        return bytes(found["temperature"]) == b"null"


def _list_elements(given: msgspec.Raw | None, path: str) -> list[msgspec.Raw]:
    """The inputs or prompts, if there are several of one kind: texts, or lists of token ids."""
    if given is None or bytes(memoryview(given)[:1]) != b"[" or path == "/v1/chat/completions":
        return []
    elements = _elements_of(given)
    kinds = {_kind(each) for each in elements}
    return elements if kinds in ({"text"}, {"ids"}) else []


def _tokens(element: msgspec.Raw, bytes_per_token: float) -> int:
    view = memoryview(element)
    if bytes(view[:1]) == b'"':
        return max(1, round(len(view) / bytes_per_token))
    return bytes(view).count(b",") + 1


def _kind(element: msgspec.Raw) -> str:
    begin = bytes(memoryview(element)[:32])
    if begin.startswith(b'"'):
        return "text"
    begin = begin.translate(None, b" \t\r\n")
    return "ids" if begin[:1] == b"[" and begin[1:2].isdigit() else "other"


def _shareable(seed: bytes, choices: int) -> bool:
    """No seed (-1 is none), or one that can be added to for every choice."""
    return seed in (b"null", b"-1") or (seed.isdigit() and int(seed) + choices <= SEED_MAX)

"""Wire form of measured speeds. Not here: the load report that carries them (codec_facts.py)."""

from __future__ import annotations

from covey_mesh.core.speeds import POINTS_MAX, SOURCES, DecodePoint, ModelSpeeds, PrefillPoint
from covey_mesh.io.codec_values import bounded, number
from covey_mesh.wire.v1 import types_pb2 as wire

_UINT32_MAX = 2**32 - 1


def speeds_to_wire(speeds: ModelSpeeds) -> wire.ModelSpeeds:
    message = wire.ModelSpeeds(
        prefill=[
            wire.ModelSpeeds.Prefill(prompt_tokens=p.prompt_tokens, tokens_per_s=p.tokens_per_s) for p in speeds.prefill
        ],
        decode=[
            wire.ModelSpeeds.Decode(batch=p.batch, context_tokens=p.context_tokens, step_s=p.step_s)
            for p in speeds.decode
        ],
        batch_slowdown=speeds.batch_slowdown,
        load_s=speeds.load_s,
        source=speeds.source,
        confidence=speeds.confidence,
        observations=min(speeds.observations, _UINT32_MAX),
        spread=speeds.spread,
        measured_unix_s=speeds.measured_unix_s,
    )
    if speeds.prefill_factor != 1.0:
        message.prefill_factor = speeds.prefill_factor
    if speeds.decode_factor != 1.0:
        message.decode_factor = speeds.decode_factor
    return message


def speeds_from_wire(message: wire.ModelSpeeds) -> ModelSpeeds:
    """A source that this build does not know reads as none. Raises PeerProtocolError."""
    prefill = bounded(message.prefill, POINTS_MAX, "prefill speeds")
    decode = bounded(message.decode, POINTS_MAX, "decode speeds")
    return ModelSpeeds(
        prefill=tuple(PrefillPoint(p.prompt_tokens, number(p.tokens_per_s, "a prefill speed")) for p in prefill),
        decode=tuple(DecodePoint(p.batch, p.context_tokens, number(p.step_s, "a decode step")) for p in decode),
        batch_slowdown=number(message.batch_slowdown, "a slowdown"),
        load_s=number(message.load_s, "a load time"),
        source=message.source if message.source in SOURCES else "",
        confidence=min(1.0, number(message.confidence, "a confidence")),
        observations=message.observations,
        spread=number(message.spread, "a spread"),
        measured_unix_s=number(message.measured_unix_s, "a time"),
        prefill_factor=number(message.prefill_factor, "a factor") if message.HasField("prefill_factor") else 1.0,
        decode_factor=number(message.decode_factor, "a factor") if message.HasField("decode_factor") else 1.0,
    )

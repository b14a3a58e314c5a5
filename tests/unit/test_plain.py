"""Wire messages as dictionaries: numbers stay numbers, enums are words."""

from __future__ import annotations

from covey_gateway.io.plain import plain
from covey_mesh.wire.v1 import types_pb2 as wire


def test_large_numbers_enums_maps_and_absence() -> None:
    load = plain(wire.ModelLoad(model="m", state=wire.ENGINE_STATE_BACKING_OFF, kv_cache_tokens_total=2**53 + 1))
    assert load["kv_cache_tokens_total"] == 2**53 + 1
    assert load["state"] == "backing_off"
    verdict = plain(wire.CandidateVerdict(node_id="n", terms_s={"queue": 0.5}))
    assert verdict["terms_s"] == {"queue": 0.5}
    assert verdict["first_token_s"] is None
    gpu = plain(wire.Gpu(utilization_percent=0))
    assert gpu["utilization_percent"] == 0
    assert gpu["power_w"] is None


def test_unknown_enum_value_is_kept_as_a_number() -> None:
    load = wire.ModelLoad()
    load.ParseFromString(wire.ModelLoad(model="m").SerializeToString() + b"\x10\x63")
    assert plain(load)["state"] == 99

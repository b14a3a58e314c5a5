"""The compatibility rule of covey.v1: numbers, names and types never change, and strangers' additions are ignored."""

from __future__ import annotations

from tools.wire_lock import LOCK, lines

from covey_mesh.wire.v1 import link_pb2, types_pb2


def test_nothing_promised_has_changed() -> None:
    gone = sorted(set(LOCK.read_text().splitlines()) - set(lines()))
    assert not gone, (
        f"a running agent of the version before relies on: {gone}; reserve and add beside, or make covey.v2"
    )


def test_everything_new_is_locked() -> None:
    new = sorted(set(lines()) - set(LOCK.read_text().splitlines()))
    assert not new, f"run `make proto` and commit proto/covey.v1.lock; not in it: {new}"


def test_a_newer_peers_item_reads_as_absent() -> None:
    unknown_item = b"\x92\x3f\x02\x08\x01"  # field 1010, length-delimited: a kind that this version does not know
    item = link_pb2.Item()
    item.ParseFromString(unknown_item)
    assert item.WhichOneof("kind") is None


def test_a_newer_peers_field_and_enum_value_do_not_hurt() -> None:
    load = types_pb2.ModelLoad()
    load.ParseFromString(types_pb2.ModelLoad(model="m").SerializeToString() + b"\x10\x63" + b"\xc2\x3e\x01x")
    assert load.model == "m"
    assert load.state == 99

"""The TXT record: what is said, within which bounds, and what is made of anything that arrives."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covey_mesh.core.advertisement import (
    TXT_BYTES_ACCEPTED_MAX,
    TXT_BYTES_MAX,
    TXT_ENTRY_BYTES_MAX,
    Advertisement,
    Rejection,
    advertisement_of,
    build_txt,
    clean_text,
    gpu_summary,
    instance_label,
    read_txt,
    txt_bytes,
)
from covey_mesh.core.facts import Gpu, NodeFacts, NodeLoad
from covey_mesh.core.names import NodeId, PoolId

GIB = 1024**3
POOL, OTHER = PoolId("a" * 32), PoolId("b" * 32)
OWN, PEER = NodeId("1" * 32), NodeId("2" * 32)
ADVERTISEMENT = Advertisement(
    pool_id=POOL,
    node_id=PEER,
    name="desk-7",
    version="0.1.0",
    incarnation=2**63 + 5,
    link_port=4711,
    http_port=8080,
    grpc_port=8081,
    gpus="2x NVIDIA RTX 4090",
    total_bytes=48 * GIB,
    free_bytes=48 * GIB,
)


def wire(entries: dict[str, str]) -> dict[bytes, bytes | None]:
    return {key.encode(): value.encode() for key, value in entries.items()}


def read(entries: dict[bytes, bytes | None], size: int = 300) -> Advertisement | Rejection:
    return read_txt(entries, size, POOL, OWN)


def test_what_is_built_is_read_back() -> None:
    assert read(wire(build_txt(ADVERTISEMENT))) == ADVERTISEMENT


@settings(deadline=None)
@given(
    name=st.text(max_size=300),
    gpus=st.text(max_size=300),
    version=st.text(max_size=80),
    incarnation=st.integers(0, 2**64 - 1),
    total=st.integers(0, 2**20 * GIB - 1),
    free=st.integers(0, 2**20 * GIB - 1),
)
def test_any_record_keeps_the_bounds_and_is_read_back(
    name: str, gpus: str, version: str, incarnation: int, total: int, free: int
) -> None:
    said = replace(
        ADVERTISEMENT,
        name=name,
        gpus=gpus,
        version=version,
        incarnation=incarnation,
        link_port=65535,
        total_bytes=total,
        free_bytes=free,
    )
    entries = build_txt(said)
    assert txt_bytes(entries) <= TXT_BYTES_MAX < 400
    assert all(len(f"{key}={value}".encode()) <= TXT_ENTRY_BYTES_MAX for key, value in entries.items())
    heard = read(wire(entries), txt_bytes(entries))
    assert isinstance(heard, Advertisement)
    assert (heard.node_id, heard.incarnation, heard.link_port) == (PEER, incarnation, 65535)
    assert 0 <= heard.free_bytes <= heard.total_bytes <= total


@pytest.mark.parametrize(
    ("total_gib", "free_gib", "said_gib"),
    [
        (24, 24, 24),
        (24, 23.6, 24),  # an idle GPU is never quite empty
        (24, 20.9, 18),
        (24, 7, 6),
        (24, 2.9, 0),
        (24, 0, 0),
        (0, 0, 0),
        (1, 0.5, 0),
        (80, 999, 80),
    ],
)
def test_free_capacity_is_told_in_quarters(total_gib: float, free_gib: float, said_gib: int) -> None:
    said = replace(ADVERTISEMENT, total_bytes=int(total_gib * GIB), free_bytes=int(free_gib * GIB)).coarse()
    assert said.free_bytes == said_gib * GIB


@pytest.mark.parametrize(
    ("names", "summary"),
    [
        ([], "none"),
        (["NVIDIA H200"], "NVIDIA H200"),
        (["A", "A", "B"], "2x A, B"),
    ],
)
def test_gpu_summary(names: list[str], summary: str) -> None:
    assert gpu_summary(names) == summary


def test_a_record_from_facts_and_load() -> None:
    facts = NodeFacts(PEER, "desk", "0.1", 1, 9, memory_total_bytes=64 * GIB)
    gpu = Gpu(0, "u", "NVIDIA X", 24 * GIB, 6 * GIB)
    with_gpu = advertisement_of(POOL, facts, NodeLoad(PEER, 9, 1, gpus=(gpu, gpu)), 4711, 8080)
    assert (with_gpu.gpus, with_gpu.total_bytes, with_gpu.free_bytes) == ("2x NVIDIA X", 48 * GIB, 12 * GIB)
    without = advertisement_of(POOL, facts, NodeLoad(PEER, 9, 1, memory_free_bytes=32 * GIB), 4711)
    assert (without.gpus, without.total_bytes, without.free_bytes) == ("none", 64 * GIB, 32 * GIB)
    assert (without.http_port, without.grpc_port) == (0, 0)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"txtvers": "2"}, Rejection.OTHER_FORMAT),
        ({"txtvers": None}, Rejection.OTHER_FORMAT),
        ({"pool": OTHER}, Rejection.OTHER_POOL),
        ({"pool": "A" * 32}, Rejection.MALFORMED),
        ({"pool": None}, Rejection.MALFORMED),
        ({"id": OWN}, Rejection.OWN),
        ({"id": "2" * 31}, Rejection.MALFORMED),
        ({"id": "../../etc/passwd"}, Rejection.MALFORMED),
        ({"link": "0"}, Rejection.MALFORMED),
        ({"link": "65536"}, Rejection.MALFORMED),
        ({"link": "-1"}, Rejection.MALFORMED),
        ({"link": "1e3"}, Rejection.MALFORMED),
        ({"link": "٣"}, Rejection.MALFORMED),
        ({"link": None}, Rejection.MALFORMED),
        ({"http": "x"}, Rejection.MALFORMED),
        ({"run": "g"}, Rejection.MALFORMED),
        ({"run": "1" * 17}, Rejection.MALFORMED),
        ({"total_gib": "9" * 20}, Rejection.MALFORMED),
        ({"free_gib": ""}, Rejection.MALFORMED),
    ],
)
def test_what_is_refused_and_why(change: dict[str, str | None], expected: Rejection) -> None:
    entries = wire(build_txt(ADVERTISEMENT))
    for key, value in change.items():
        if value is None:
            del entries[key.encode()]
        else:
            entries[key.encode()] = value.encode()
    assert read(entries) is expected


def test_texts_are_optional_and_cleaned() -> None:
    odd: dict[bytes, bytes | None] = {b"name": b"\x1b[31mred\n" + b"x" * 200, b"gpu": None, b"ver": b"\xff\xfe"}
    entries = wire(build_txt(ADVERTISEMENT)) | odd
    heard = read(entries | {b"unknown": b"1", b"": None})
    assert isinstance(heard, Advertisement)
    assert heard.name.startswith("[31mredxxx")
    assert len(heard.name) == 63
    assert heard.gpus == ""


def test_more_free_than_total_is_read_as_all_free() -> None:
    heard = read(wire(build_txt(ADVERTISEMENT) | {"total_gib": "8", "free_gib": "9"}))
    assert isinstance(heard, Advertisement)
    assert heard.free_bytes == heard.total_bytes == 8 * GIB


def test_an_oversized_record_is_not_looked_into() -> None:
    assert read(wire(build_txt(ADVERTISEMENT)), TXT_BYTES_ACCEPTED_MAX + 1) is Rejection.MALFORMED


@settings(deadline=None)
@given(st.dictionaries(st.binary(max_size=20), st.none() | st.binary(max_size=255), max_size=40))
def test_any_bytes_give_a_typed_result(noise: dict[bytes, bytes | None]) -> None:
    assert isinstance(read(noise), Rejection)
    assert isinstance(read(wire(build_txt(ADVERTISEMENT)) | noise), Rejection | Advertisement)


@pytest.mark.parametrize(
    ("text", "bytes_max", "cut"),
    [
        ("abc", 2, "ab"),
        ("aé", 2, "a"),
        ("日本", 4, "日"),
        ("a\nb\x00c", 9, "abc"),
        ("  a ", 9, "a"),
        ("\ud800a", 9, "a"),
    ],
)
def test_clean_text_cuts_at_a_characters_edge(text: str, bytes_max: int, cut: str) -> None:
    assert clean_text(text, bytes_max) == cut


@pytest.mark.parametrize(
    ("name", "label"),
    [("desk-7", "desk-7-22222222"), ("pc.office.lan", "pc-office-lan-22222222"), ("", "covey-22222222")],
)
def test_instance_label(name: str, label: str) -> None:
    assert instance_label(replace(ADVERTISEMENT, name=name)) == label


def test_the_longest_instance_label_fits_dns() -> None:
    assert len(instance_label(replace(ADVERTISEMENT, name="日" * 99)).encode()) <= 63

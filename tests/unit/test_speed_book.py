"""Measured speeds on disk: whole or not at all, corrupt files set aside, bounded, off the loop's thread."""

from __future__ import annotations

import asyncio
import logging
import os
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from covey_node.core.settings import ModelSpec
from covey_node.core.simulated import SimulatedSettings
from covey_node.core.speed_record import DecodeMemory, PrefillMemory, SpeedRecord
from covey_node.io.speed_book import CONFIGURATIONS_MAX, FILE_BYTES_MAX, FILE_NAME, SpeedBook, key_of

RECORD = SpeedRecord((PrefillMemory(100.0, 0.001, 5, 1e9),), (DecodeMemory(1.0, 50.0, 0.02, 3, 1e9),), (12.0,))


class AtOnce:
    """A worker that writes within the call."""

    def run(self, write: Callable[[], None], done: Callable[[Exception | None], None]) -> None:
        try:
            write()
        except Exception as error:  # noqa: BLE001 (as DiskWorker's thread)
            done(error)
        else:
            done(None)


def test_a_record_survives(tmp_path: Path) -> None:
    book = SpeedBook(tmp_path, AtOnce())
    assert book.get("a") is None
    book.save("a", RECORD)
    book.save("b", SpeedRecord())
    again = SpeedBook(tmp_path, AtOnce())
    assert (again.get("a"), again.get("b"), again.get("c")) == (RECORD, SpeedRecord(), None)
    assert os.listdir(tmp_path) == [FILE_NAME], "nothing temporary is left"


def with_checksum(line: bytes) -> bytes:
    return line + b"\n%08x\n" % zlib.crc32(line)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\0" * 100, b"{}", b"{}\n00000000\n", b"x" * (FILE_BYTES_MAX + 10),
        with_checksum(b"{}"), with_checksum(b"[]"), with_checksum(b"null"), with_checksum(b"\xff"),
        with_checksum(b"[" * 50_000),
        with_checksum(b'{"format": 2, "configurations": {}}'),
        with_checksum(b'{"format": 1, "configurations": []}'),
        with_checksum(b'{"format": 1, "configurations": {"a": {"prefill": [], "decode": [], "loads_s": [0]}}}'),
        with_checksum(b'{"format": 1, "configurations": {"a": {"prefill": [], "decode": [], "loads_s": [NaN]}}}'),
    ],
)  # fmt: skip
def test_an_unreadable_file_is_set_aside_and_measured_anew(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    with caplog.at_level(logging.WARNING):
        book = SpeedBook(tmp_path, AtOnce())
    assert book.get("a") is None
    assert len(caplog.records) == 1
    assert (tmp_path / "speeds.corrupt").read_bytes() == content
    book.save("a", RECORD)
    assert SpeedBook(tmp_path, AtOnce()).get("a") == RECORD


def test_any_cut_of_the_file_is_noticed(tmp_path: Path) -> None:
    SpeedBook(tmp_path, AtOnce()).save("a", RECORD)
    whole = (tmp_path / FILE_NAME).read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / FILE_NAME).write_bytes(whole[:length])
        assert SpeedBook(tmp_path, AtOnce()).get("a") is None


def test_the_oldest_configuration_is_forgotten(tmp_path: Path) -> None:
    book = SpeedBook(tmp_path, AtOnce())
    for number in range(CONFIGURATIONS_MAX + 1):
        book.save(f"{number}", RECORD)
        book.save("kept", RECORD)
    again = SpeedBook(tmp_path, AtOnce())
    assert again.get("0") is None
    assert again.get("1") is None
    assert again.get("2") == again.get("kept") == RECORD
    assert (tmp_path / FILE_NAME).stat().st_size < FILE_BYTES_MAX


def test_a_disk_that_cannot_be_written_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    book = SpeedBook(tmp_path / "gone", AtOnce())
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            book.save("a", RECORD)
    assert len(caplog.records) == 1
    assert book.get("a") == RECORD


def test_a_key_names_everything_that_changes_speed(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    spec = ModelSpec("m", str(tmp_path))
    same = key_of(spec, ["--a"], ["gpu"])
    assert key_of(spec, ["--a"], ["gpu"]) == same
    simulated = replace(spec, engine="simulated")
    others = [
        key_of(spec, ["--b"], ["gpu"]),
        key_of(spec, ["--a"], ["gpu", "gpu"]),
        key_of(replace(spec, path="/elsewhere"), ["--a"], ["gpu"]),
        key_of(simulated, ["--a"], ["gpu"]),
        key_of(replace(simulated, simulated=SimulatedSettings(seed=1)), ["--a"], ["gpu"]),
    ]
    (tmp_path / "config.json").write_text("{ }")
    others.append(key_of(spec, ["--a"], ["gpu"]))
    assert len({same, *others}) == 7


@pytest.mark.asyncio
async def test_the_loop_does_not_wait_for_the_disk(tmp_path: Path) -> None:
    waiting: list[Callable[[], None]] = []

    class Later:
        def run(self, write: Callable[[], None], done: Callable[[Exception | None], None]) -> None:
            waiting.append(write)

    SpeedBook(tmp_path, Later()).save("a", RECORD)
    await asyncio.sleep(0)
    assert os.listdir(tmp_path) == []
    waiting[0]()
    assert SpeedBook(tmp_path, AtOnce()).get("a") == RECORD

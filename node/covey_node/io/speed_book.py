"""Measured speeds on disk, by configuration: `speeds.json` in the state directory, written as a whole.

A file that cannot be read is kept aside and everything is measured anew: nothing but a little time depends on it. Not
here: what the records mean (covey_node.core.speed_record).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Protocol

from covey_mesh.io.checked_json import CorruptFile, decode_checked, encode_checked
from covey_mesh.io.state_files import PUBLIC_MODE, write_atomically
from covey_node.core.settings import ModelSpec
from covey_node.core.speed_record import SpeedRecord, from_plain, plain

FILE_NAME = "speeds.json"
FILE_BYTES_MAX = 1024 * 1024
CONFIGURATIONS_MAX = 64
"""The one saved longest ago is forgotten."""

FORMAT = 1
KEY_CHARACTERS = 32

_log = logging.getLogger(__name__)


class Worker(Protocol):
    """covey_mesh.io.disk_worker.DiskWorker."""

    def run(self, write: Callable[[], None], done: Callable[[Exception | None], None]) -> None: ...


class SpeedBook:
    """`directory` must exist. Reads when made; writes on `worker`, one whole file a save."""

    def __init__(self, directory: Path, worker: Worker) -> None:
        self._path = directory / FILE_NAME
        self._worker = worker
        self._records = self._load()
        self._told_of_failure = False

    def get(self, key: str) -> SpeedRecord | None:
        return self._records.get(key)

    def save(self, key: str, record: SpeedRecord) -> None:
        """A full or read-only disk is told once; measuring goes on."""
        self._records[key] = record
        self._records.move_to_end(key)
        while len(self._records) > CONFIGURATIONS_MAX:
            self._records.popitem(last=False)
        content = encode(self._records)
        self._worker.run(lambda: write_atomically(self._path, content, PUBLIC_MODE), self._saved)

    def _saved(self, error: Exception | None) -> None:
        if error is not None and not self._told_of_failure:
            self._told_of_failure = True
            _log.warning("measured speeds are not kept: a restart measures anew", extra={"cause": str(error)})
        elif error is None:
            self._told_of_failure = False

    def _load(self) -> OrderedDict[str, SpeedRecord]:
        try:
            with self._path.open("rb") as file:
                return decode(file.read(FILE_BYTES_MAX + 1))
        except FileNotFoundError:
            return OrderedDict()
        except (CorruptFile, OSError) as error:
            self._set_aside(error)
            return OrderedDict()

    def _set_aside(self, cause: Exception) -> None:
        aside = self._path.with_suffix(".corrupt")
        try:
            self._path.replace(aside)
        except OSError:
            aside = self._path
        _log.warning(
            "measured speeds cannot be read and are measured anew; nothing else to do",
            extra={"file": str(aside), "cause": str(cause)},
        )


def encode(records: OrderedDict[str, SpeedRecord]) -> bytes:
    """A line of JSON, and its checksum on a second. Records that are saved last stand last."""
    return encode_checked({"format": FORMAT, "configurations": {key: plain(record) for key, record in records.items()}})


def decode(content: bytes) -> OrderedDict[str, SpeedRecord]:
    """Raises CorruptFile."""
    if len(content) > FILE_BYTES_MAX:
        raise CorruptFile("too long")
    values = decode_checked(content)
    try:
        if values["format"] != FORMAT or len(values["configurations"]) > CONFIGURATIONS_MAX:
            raise CorruptFile("another format")
        return OrderedDict((str(key)[:KEY_CHARACTERS], from_plain(r)) for key, r in values["configurations"].items())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptFile(f"not measured speeds: {error!r}") from error


def key_of(spec: ModelSpec, arguments: list[str], hardware: list[str]) -> str:
    """Names one configuration: model and its files, engine and its version, its arguments, and what it runs on."""
    parts = [spec.engine, spec.name, spec.path, _version_of(spec), _stamp_of(spec.path), arguments, sorted(hardware)]
    if spec.engine == "simulated":
        parts.append(repr(spec.simulated))
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:KEY_CHARACTERS]


def _version_of(spec: ModelSpec) -> str:
    """From the installed package's metadata: the engine itself is never imported."""
    try:
        return metadata.version("vllm") if spec.engine == "vllm" else ""
    except metadata.PackageNotFoundError:
        return ""


def _stamp_of(path: str) -> str:
    """Changes when another model is put into the same place."""
    try:
        found = (Path(path) / "config.json").stat()
    except OSError:
        return ""
    return f"{found.st_mtime_ns} {found.st_size}"

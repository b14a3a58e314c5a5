"""What a machine says of itself over mDNS: the TXT record of `_covey._tcp.local.`, and what to make of others'.

Everything received here is a dial hint from an unknown hand: anyone on the LAN can send it. Identity comes from TLS,
liveness from links. Sending and receiving is covey_mesh.io.discovery.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace

from covey_mesh.core.facts import NodeFacts, NodeLoad
from covey_mesh.core.names import NodeId, PoolId, is_id, short

SERVICE_TYPE = "_covey._tcp.local."

TXT_FORMAT = "1"
"""First key of every record; another value is ignored."""

TXT_BYTES_MAX = 399
"""Of the whole record as sent, length bytes included. Small enough for one packet with everything else in it."""

TXT_ENTRY_BYTES_MAX = 255
"""DNS limit of one "key=value"."""

TXT_BYTES_ACCEPTED_MAX = 1024
"""A received record above this is not ours, and is not looked into."""

NAME_BYTES_MAX = 63
GPU_SUMMARY_BYTES_MAX = 80
VERSION_BYTES_MAX = 32

FREE_STEPS = 4
"""Free capacity is told in quarters of the total: a finer figure would be stale when read, and cost an update each."""

_GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Advertisement:
    """One machine's record. Ports are 0 where the LAN may not use them; capacity is GPU memory, or RAM without GPU."""

    pool_id: PoolId
    node_id: NodeId
    name: str
    version: str
    incarnation: int
    link_port: int
    http_port: int = 0
    grpc_port: int = 0
    gpus: str = ""
    total_bytes: int = 0
    free_bytes: int = 0

    def coarse(self) -> Advertisement:
        """The same with its capacity as others will read it: whole GiB in total, the nearest quarter free."""
        total_gib = self.total_bytes // _GIB
        share = min(1.0, self.free_bytes / self.total_bytes) if self.total_bytes > 0 else 0.0
        free_gib = total_gib * int(share * FREE_STEPS + 0.5) // FREE_STEPS
        return replace(self, total_bytes=total_gib * _GIB, free_bytes=free_gib * _GIB)


def advertisement_of(
    pool_id: PoolId, facts: NodeFacts, load: NodeLoad, link_port: int, http_port: int = 0, grpc_port: int = 0
) -> Advertisement:
    """A machine's record from its own facts and load."""
    total = sum(gpu.memory_total_bytes for gpu in load.gpus) if load.gpus else facts.memory_total_bytes
    free = sum(gpu.memory_free_bytes for gpu in load.gpus) if load.gpus else load.memory_free_bytes
    return Advertisement(
        pool_id=pool_id,
        node_id=facts.node_id,
        name=facts.name,
        version=facts.version,
        incarnation=facts.incarnation,
        link_port=link_port,
        http_port=http_port,
        grpc_port=grpc_port,
        gpus=gpu_summary([gpu.name for gpu in load.gpus]),
        total_bytes=total,
        free_bytes=free,
    )


def gpu_summary(names: list[str]) -> str:
    """For people: "2x NVIDIA RTX 4090, NVIDIA RTX 3060"; "none" without a GPU."""
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return ", ".join(f"{count}x {name}" if count > 1 else name for name, count in counts.items()) or "none"


def clean_text(text: str, bytes_max: int) -> str:
    """Printable characters only, cut to `bytes_max` bytes of UTF-8 at a character's edge."""
    printable = "".join(c for c in text if c.isprintable())
    return printable.encode("utf-8", "ignore")[:bytes_max].decode("utf-8", "ignore").strip()


def instance_label(advertisement: Advertisement) -> str:
    """The instance name that people see in a service browser. Carries part of the id, so equal host names differ."""
    name = clean_text(advertisement.name, 40).replace(".", "-") or "covey"
    return f"{name}-{short(advertisement.node_id)}"


def build_txt(advertisement: Advertisement) -> dict[str, str]:
    """The record's entries in order, within TXT_BYTES_MAX: the text that people read is cut first."""
    coarse = advertisement.coarse()
    entries = {
        "txtvers": TXT_FORMAT,
        "pool": coarse.pool_id,
        "id": coarse.node_id,
        "run": f"{coarse.incarnation:x}",
        "ver": clean_text(coarse.version, VERSION_BYTES_MAX),
        "link": str(coarse.link_port),
        "http": str(coarse.http_port),
        "grpc": str(coarse.grpc_port),
        "total_gib": str(coarse.total_bytes // _GIB),
        "free_gib": str(coarse.free_bytes // _GIB),
        "name": clean_text(coarse.name, NAME_BYTES_MAX),
        "gpu": clean_text(coarse.gpus, GPU_SUMMARY_BYTES_MAX),
    }
    for key in ("gpu", "name"):
        excess = txt_bytes(entries) - TXT_BYTES_MAX
        if excess > 0:
            entries[key] = clean_text(entries[key], max(0, len(entries[key].encode()) - excess))
    assert txt_bytes(entries) <= TXT_BYTES_MAX, "fixed-width entries alone exceed the record's bound"
    return entries


def txt_bytes(entries: Mapping[str, str]) -> int:
    """Size on the wire: one length byte, the key, "=", the value, for each."""
    return sum(2 + len(key.encode()) + len(value.encode()) for key, value in entries.items())


class Rejection(enum.Enum):
    """Why a received record gives no hint."""

    MALFORMED = "malformed"
    OTHER_FORMAT = "another record format"
    OTHER_POOL = "another pool"
    OWN = "this machine's own"


def read_txt(
    entries: Mapping[bytes, bytes | None], size_bytes: int, pool_id: PoolId, own: NodeId
) -> Advertisement | Rejection:
    """A received record: the advertisement of another machine that claims our pool, or why it is none.

    Tolerates unknown keys, odd bytes and missing texts; ids, numbers and ports must be well formed.
    """
    if size_bytes > TXT_BYTES_ACCEPTED_MAX:
        return Rejection.MALFORMED
    if _text(entries, "txtvers", 8) != TXT_FORMAT:
        return Rejection.OTHER_FORMAT
    pool, node = _text(entries, "pool", 64), _text(entries, "id", 64)
    if not (is_id(pool) and is_id(node)):
        return Rejection.MALFORMED
    if pool != pool_id:
        return Rejection.OTHER_POOL
    if node == own:
        return Rejection.OWN
    return _read_details(entries, PoolId(pool), NodeId(node))


def _read_details(entries: Mapping[bytes, bytes | None], pool: PoolId, node: NodeId) -> Advertisement | Rejection:
    incarnation = _number(entries, "run", 2**64 - 1, base=16)
    link = _number(entries, "link", 65535)
    ports = [_number(entries, key, 65535) for key in ("http", "grpc")]
    capacity = [_number(entries, key, 2**20) for key in ("total_gib", "free_gib")]
    if incarnation is None or not link or None in ports or None in capacity:
        return Rejection.MALFORMED
    return Advertisement(
        pool_id=pool,
        node_id=node,
        name=_text(entries, "name", NAME_BYTES_MAX),
        version=_text(entries, "ver", VERSION_BYTES_MAX),
        incarnation=incarnation,
        link_port=link,
        http_port=ports[0] or 0,
        grpc_port=ports[1] or 0,
        gpus=_text(entries, "gpu", GPU_SUMMARY_BYTES_MAX),
        total_bytes=(capacity[0] or 0) * _GIB,
        free_bytes=min(capacity[0] or 0, capacity[1] or 0) * _GIB,
    )


def _text(entries: Mapping[bytes, bytes | None], key: str, bytes_max: int) -> str:
    return clean_text((entries.get(key.encode()) or b"").decode("utf-8", "replace"), bytes_max)


def _number(entries: Mapping[bytes, bytes | None], key: str, largest: int, base: int = 10) -> int | None:
    """None where absent, not plain digits, or above `largest`."""
    digits = entries.get(key.encode()) or b""
    allowed = b"0123456789abcdef"[:base]
    if not 0 < len(digits) <= 20 or any(c not in allowed for c in digits):
        return None
    value = int(digits, base)
    return value if value <= largest else None

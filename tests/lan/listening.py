"""Ports that other machines can reach, read from the kernel's own tables."""

from __future__ import annotations

from pathlib import Path

_LISTEN, _UNCONNECTED = "0A", "07"
_LOOPBACK = ("0100007F", "00000000000000000000000001000000")
_EPHEMERAL_MIN = 32768


def listening(pid: int, protocol: str) -> set[int]:
    """Ports of `protocol` ("tcp", "udp") that are open beyond loopback, in the network namespace of process `pid`.

    A UDP socket that only asks (a resolver's) has a port that the kernel chose; those are left out.
    """
    found = set()
    for table in (protocol, f"{protocol}6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            local, _, state = line.split()[1:4]
            address, _, port = local.partition(":")
            is_open = state == (_LISTEN if protocol == "tcp" else _UNCONNECTED)
            asks = protocol == "udp" and int(port, 16) >= _EPHEMERAL_MIN
            if is_open and not asks and not address.endswith(_LOOPBACK):
                found.add(int(port, 16))
    return found

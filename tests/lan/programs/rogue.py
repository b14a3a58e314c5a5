"""A hostile neighbour: announces whatever it is told to, as often as it is told to, and sends garbage."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Mapping
from typing import Any

from tests.lan.programs.lines import commands, emit
from zeroconf import DNSAddress, DNSOutgoing, DNSPointer, DNSService, DNSText

from covey_mesh.core.addresses import InterfaceAddress
from covey_mesh.core.advertisement import SERVICE_TYPE
from covey_mesh.io.interfaces import read_interfaces
from covey_mesh.io.multicast import group_address, open_mdns_socket

_IN, _IN_FLUSH = 0x0001, 0x8001
_PTR, _TXT, _SRV, _A = 12, 16, 33, 1


def announcement(command: Mapping[str, Any]) -> list[bytes]:
    """A complete, well-formed announcement (or goodbye, with ttl 0) with the fields of the command."""
    name = f"{command['instance']}.{SERVICE_TYPE}"
    server = command.get("server", f"rogue-{command['instance']}.local.")
    ttl = command.get("ttl", 120)
    entries = command.get("txt") or good_txt(command)
    text = b"".join(bytes([len(e)]) + e for e in (f"{k}={v}".encode()[:255] for k, v in entries.items()))
    out = DNSOutgoing(0x8400)
    for record in (
        DNSPointer(SERVICE_TYPE, _PTR, _IN, ttl, name),
        DNSService(name, _SRV, _IN_FLUSH, ttl, 0, 0, command.get("port", 4711), server),
        DNSText(name, _TXT, _IN_FLUSH, ttl, bytes.fromhex(command["text_hex"]) if "text_hex" in command else text),
        DNSAddress(server, _A, _IN_FLUSH, ttl, socket.inet_aton(command.get("address", "10.77.0.66"))),
    ):
        out.add_answer_at_time(record, 0)
    return out.packets()


def good_txt(command: Mapping[str, Any]) -> dict[str, str]:
    fields = {"txtvers": "1", "pool": command["pool"], "id": command["node"], "run": "1", "ver": "0", "link": "4711"}
    return fields | {"http": "0", "grpc": "0", "total_gib": "1", "free_gib": "1", "name": "rogue", "gpu": "none"}


async def main() -> None:
    interface: InterfaceAddress = next(a for a in read_interfaces() if a.interface == "eth0" and not a.is_ipv6)
    opened = open_mdns_socket(interface)
    group = group_address(interface)
    dice = random.Random(7)
    emit("started", seed=7)
    async for command in commands():
        packets: list[bytes] = []
        if command["command"] == "announce":
            packets = announcement(command)
        elif command["command"] == "flood":
            for number in range(command["count"]):
                one = {**command, "instance": f"flood-{number}", "node": f"{number:032x}"}
                packets += announcement(one)
        elif command["command"] == "garbage":
            good = announcement({**command, "instance": "garbage", "node": "9" * 32})[0]
            for _ in range(command["count"]):
                packets.append(mangled(good, dice))
        for position, packet in enumerate(packets):
            opened.sendto(packet, group)
            if position % 50 == 49:
                await asyncio.sleep(0.005)
        emit(command["command"], packets=len(packets))
    opened.close()


def mangled(packet: bytes, dice: random.Random) -> bytes:
    """Bytes flipped, cut, repeated, or nothing but noise."""
    kind = dice.randrange(4)
    if kind == 0:
        return dice.randbytes(dice.randrange(1, 1400))
    if kind == 1:
        return packet[: dice.randrange(len(packet))]
    if kind == 2:
        return packet + dice.randbytes(dice.randrange(1, 7000))
    changed = bytearray(packet)
    for _ in range(dice.randrange(1, 20)):
        changed[dice.randrange(len(changed))] = dice.randrange(256)
    return bytes(changed)


if __name__ == "__main__":
    asyncio.run(main())

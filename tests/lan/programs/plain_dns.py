"""Asks for one name as a client that knows nothing of mDNS does: from an ordinary port, expecting one direct answer."""

from __future__ import annotations

import socket
import struct
import sys

from tests.lan.programs.lines import emit
from zeroconf import DNSAddress, DNSIncoming

from covey_mesh.io.multicast import GROUP_IPV4, MDNS_PORT


def main(name: str) -> None:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.rstrip(".").split("."))
    query = struct.pack("!6H", 4321, 0, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        # There is no default route in the lab: name the interface.
        client.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("=4s4si", b"", b"", _index()))
        client.sendto(query, (GROUP_IPV4, MDNS_PORT))
        answer = DNSIncoming(client.recv(9000))
    addresses = [socket.inet_ntoa(one.address) for one in answer.answers() if isinstance(one, DNSAddress)]
    emit("answer", addresses=addresses, same_id=answer.id == 4321, question=answer.questions[0].name)


def _index() -> int:
    return socket.if_nametoindex("eth0")


if __name__ == "__main__":
    main(sys.argv[1])

"""Multicast between two machines that can already talk: each says a word to the mDNS group and listens for the other's.

The word is a label of an ordinary mDNS question that nobody answers. Tells multicast out and in apart, which no machine
can do alone. Not here: who meets whom (survey.py), what follows (network.py).
"""

from __future__ import annotations

import contextlib
import re
import secrets
import select
import socket
import time
from collections.abc import Collection, Sequence

from zeroconf import DNSOutgoing, DNSQuestion

from covey_mesh.core.addresses import InterfaceAddress, one_per_interface
from covey_mesh.io.multicast import group_address, open_mdns_socket

MEET_S = 1.0
"""Slow Wi-Fi delivers multicast a few hundred ms late (access points hold it for sleeping stations)."""

SAY_AT_S = (0.15, 0.4, 0.65)
"""Multicast is not sent again by anybody: said three times, heard once is enough."""

WORDS_MAX = 16
DATAGRAMS_MAX = 2000
"""Read in one meeting; a busy network beyond that counts as silent."""

_WORD = re.compile(r"[0-9a-f]{16}")
_TYPE_PTR, _CLASS_IN = 12, 1


def new_word() -> str:
    """Unguessable, so that nobody answers in another's place by chance."""
    return secrets.token_hex(8)


def is_word(text: str) -> bool:
    return _WORD.fullmatch(text) is not None


def meet(addresses: Sequence[InterfaceAddress], say: str, listen_for: Collection[str]) -> set[str]:
    """Blocks for MEET_S; returns the words heard. Interfaces that cannot multicast are left out."""
    question = _question(say)
    with contextlib.ExitStack() as stack:
        opened: dict[socket.socket, InterfaceAddress] = {}
        for interface in one_per_interface(addresses):
            with contextlib.suppress(OSError):
                opened[stack.enter_context(contextlib.closing(open_mdns_socket(interface)))] = interface
        return _say_and_listen(opened, question, set(list(listen_for)[:WORDS_MAX]))


def _say_and_listen(opened: dict[socket.socket, InterfaceAddress], question: bytes, wanted: set[str]) -> set[str]:
    started_s, heard, datagrams = time.monotonic(), set[str](), 0
    to_say = list(SAY_AT_S)
    while (now_s := time.monotonic() - started_s) < MEET_S and datagrams < DATAGRAMS_MAX:
        if to_say and now_s >= to_say[0]:
            to_say.pop(0)
            for one, interface in opened.items():
                with contextlib.suppress(OSError):
                    one.sendto(question, group_address(interface))
        until_s = min(to_say[0] if to_say else MEET_S, MEET_S)
        for one in select.select(list(opened), [], [], max(0.0, until_s - now_s))[0]:
            datagrams += 1
            with contextlib.suppress(OSError):
                datagram = one.recv(9000)
                heard |= {word for word in wanted if word.encode() in datagram}
    return heard


def _question(word: str) -> bytes:
    query = DNSOutgoing(0, multicast=False)
    query.add_question(DNSQuestion(f"_covey-{word}._tcp.local.", _TYPE_PTR, _CLASS_IN))
    return query.packets()[0]

"""Listens where a rogue announcement points and tells all that reaches it: PORT CERTIFICATE.pem KEY.pem.

It takes whatever TLS client comes and asks nothing of it, so that a handshake that fails was ended by the client.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import sys
import threading

from tests.lan.programs.lines import emit

PATIENCE_S = 5.0
CONNECTIONS_MAX = 10_000
BYTES_MAX = 64 * 1024
_one_line_at_a_time = threading.Lock()


def main(port: int, certificate: str, key: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["h2"])
    with socket.create_server(("", port)) as server:
        emit("listening", port=port)
        for _ in range(CONNECTIONS_MAX):
            opened, source = server.accept()
            threading.Thread(target=take, args=(opened, source[0], context), daemon=True).start()


def take(opened: socket.socket, source: str, context: ssl.SSLContext) -> None:
    """One connection: does its handshake come to an end, and what is said after it?"""
    opened.settimeout(PATIENCE_S)
    outcome, received = "completed", b""
    try:
        secured = context.wrap_socket(opened, server_side=True)
        with contextlib.closing(secured), contextlib.suppress(OSError):
            while len(received) < BYTES_MAX and (piece := secured.recv(4096)):
                received += piece
    except (OSError, ssl.SSLError) as error:
        outcome = f"failed: {error}"
    with _one_line_at_a_time:
        emit("connection", source=source, handshake=outcome, received=received.hex())


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])

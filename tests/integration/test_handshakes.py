"""Many TLS handshakes at the same moment, as after a network comes back, or from whoever likes to open connections."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tests.support.links import Machine, new_pool

from covey_mesh.io import certificates
from covey_mesh.io.identity import load_authority, load_or_make_node_key

ROOT = Path(__file__).resolve().parents[2]
HANDSHAKES = 2000
CLIENTS = 16
HANDSHAKE_TIMEOUT_S = 10.0


async def serve(state_dir: Path) -> None:
    """In a process of its own: what goes wrong here ends the whole process."""
    machine = Machine(new_pool(state_dir))
    await machine.transport.start()
    print(machine.transport.port, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await machine.transport.close()


def shake_hands(port: int, count: int, done: list[int]) -> None:
    """As a stranger: without a certificate of the pool, again and again."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    for _ in range(count):
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", port), HANDSHAKE_TIMEOUT_S) as opened,
        ):
            context.wrap_socket(opened).close()
        done.append(1)


def test_concurrent_handshakes_do_not_end_the_agent(tmp_path: Path) -> None:
    """gRPC replaces its TLS state whenever it is handed a configuration, and frees what other handshakes still use."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.test_handshakes", str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        port = int(process.stdout.readline())
        done: list[int] = []
        threads = [
            threading.Thread(target=shake_hands, args=(port, HANDSHAKES // CLIENTS, done)) for _ in range(CLIENTS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert process.poll() is None, f"ended with {process.returncode} after some of {len(done)} handshakes"
    finally:
        process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()
        process.stdout.close()
    assert process.returncode == 0


def shown_certificate(port: int) -> bytes:
    """What the server proves itself with, as DER."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", port), HANDSHAKE_TIMEOUT_S) as opened,
        context.wrap_socket(opened) as secured,
    ):
        return secured.getpeercert(binary_form=True) or b""


@pytest.mark.asyncio
async def test_a_renewed_certificate_is_shown_from_the_next_handshake_on(tmp_path: Path) -> None:
    machine = Machine(new_pool(tmp_path))
    await machine.transport.start()
    try:
        first = await asyncio.to_thread(shown_certificate, machine.transport.port)
        key = load_or_make_node_key(tmp_path)
        ca_key, authority = load_authority(tmp_path)
        renewed = certificates.cert_to_pem(certificates.sign_node(ca_key, authority, key.public_key(), time.time()))
        machine.transport.replace_identity(dataclasses.replace(machine.identity, certificate_pem=renewed))
        shown = await asyncio.to_thread(shown_certificate, machine.transport.port)
    finally:
        await machine.transport.close()
    assert shown == ssl.PEM_cert_to_DER_cert(renewed.decode())
    assert shown != first


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))

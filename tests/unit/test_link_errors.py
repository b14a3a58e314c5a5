"""What an error of sockets, TLS or gRPC says about the other process."""

from __future__ import annotations

import socket
import ssl

import grpc
import pytest

from covey_mesh.core.ports import LinkLoss
from covey_mesh.io.link_errors import (
    LOG_INTERVAL_S,
    LOG_SUBJECTS_MAX,
    LogBound,
    loss_of_connect,
    loss_of_silence,
    loss_of_status,
)

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
PREFIX = "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: "


@pytest.mark.parametrize(
    ("code", "details", "loss"),
    [
        (UNAVAILABLE, PREFIX + "Failed to connect to remote host: Connection refused", LinkLoss.REFUSED),
        (UNAVAILABLE, PREFIX + "Tls handshake failed (TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL", LinkLoss.UNTRUSTED),
        (UNAVAILABLE, PREFIX + "UNAUTHENTICATED: Hostname Verification Check failed.", LinkLoss.UNTRUSTED),
        (UNAVAILABLE, "Socket closed", LinkLoss.RESET),
        (UNAVAILABLE, "recvmsg:Connection reset by peer", LinkLoss.RESET),
        (UNAVAILABLE, "keepalive watchdog timeout", LinkLoss.SILENT),
        (UNAVAILABLE, "ping timeout", LinkLoss.SILENT),
        (UNAVAILABLE, "No route to host", LinkLoss.SILENT),
        (grpc.StatusCode.PERMISSION_DENIED, "it was removed", LinkLoss.UNTRUSTED),
        (grpc.StatusCode.FAILED_PRECONDITION, "it speaks protocol 9", LinkLoss.PROTOCOL),
        (grpc.StatusCode.UNIMPLEMENTED, "", LinkLoss.PROTOCOL),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "", LinkLoss.CLOSED),
        (None, "", LinkLoss.RESET),
    ],
)
def test_statuses(code: grpc.StatusCode | None, details: str, loss: LinkLoss) -> None:
    assert loss_of_status(code, details) is loss


@pytest.mark.parametrize(
    ("error", "loss"),
    [
        (ConnectionRefusedError(), LinkLoss.REFUSED),
        (ConnectionResetError(), LinkLoss.RESET),
        (TimeoutError(), LinkLoss.SILENT),
        (socket.gaierror(-2, "Name or service not known"), LinkLoss.SILENT),
        (OSError(113, "No route to host"), LinkLoss.SILENT),
        (ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), LinkLoss.RESET),
        (ssl.SSLCertVerificationError(1, "verify failed"), LinkLoss.UNTRUSTED),
        (ssl.SSLError(1, "[SSL] tlsv13 alert certificate required"), LinkLoss.UNTRUSTED),
        (ssl.SSLError(1, "[SSL] wrong version number"), LinkLoss.UNTRUSTED),
    ],
)
def test_connecting(error: OSError, loss: LinkLoss) -> None:
    found, detail = loss_of_connect(error)
    assert found is loss
    assert detail


def test_a_bug_is_not_taken_for_a_network_error() -> None:
    with pytest.raises(ZeroDivisionError):
        loss_of_connect(ZeroDivisionError())


@pytest.mark.parametrize(("silent_for_s", "loss"), [(0.1, LinkLoss.RESET), (1.5, LinkLoss.SILENT)])
def test_silence(silent_for_s: float, loss: LinkLoss) -> None:
    assert loss_of_silence(silent_for_s) is loss


def test_each_subject_is_logged_once_in_an_interval() -> None:
    bound = LogBound()
    assert bound.allows("a", 0.0)
    assert not bound.allows("a", LOG_INTERVAL_S - 1)
    assert bound.allows("b", 1.0)
    assert bound.allows("a", LOG_INTERVAL_S)
    for number in range(5 * LOG_SUBJECTS_MAX):
        bound.allows(str(number), 2.0)
    assert len(bound._last_s) <= LOG_SUBJECTS_MAX

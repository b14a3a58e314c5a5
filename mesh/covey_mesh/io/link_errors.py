"""Why a connection ended or never came about, from what sockets, TLS and gRPC report; and how often that is logged.

Only a refused connection proves that the process is gone (covey_mesh.core.ports.LinkLoss). Not here: what follows.
"""

from __future__ import annotations

import socket
import ssl

import grpc

from covey_mesh.core.ports import LinkLoss

SILENT_AFTER_S = 1.0
"""A connection that ended without a word counts as SILENT when nothing was heard for this long, else as RESET."""

LOG_INTERVAL_S = 60.0
LOG_SUBJECTS_MAX = 1024

_STATUS_LOSSES = {
    grpc.StatusCode.PERMISSION_DENIED: LinkLoss.UNTRUSTED,
    grpc.StatusCode.UNAUTHENTICATED: LinkLoss.UNTRUSTED,
    grpc.StatusCode.FAILED_PRECONDITION: LinkLoss.PROTOCOL,
    grpc.StatusCode.INVALID_ARGUMENT: LinkLoss.PROTOCOL,
    grpc.StatusCode.UNIMPLEMENTED: LinkLoss.PROTOCOL,
    grpc.StatusCode.DEADLINE_EXCEEDED: LinkLoss.SILENT,
    grpc.StatusCode.RESOURCE_EXHAUSTED: LinkLoss.CLOSED,
}

_DETAIL_LOSSES = (
    ("connection refused", LinkLoss.REFUSED),
    ("certificate", LinkLoss.UNTRUSTED),
    ("hostname verification", LinkLoss.UNTRUSTED),
    ("tls handshake", LinkLoss.UNTRUSTED),
    ("keepalive", LinkLoss.SILENT),
    ("ping timeout", LinkLoss.SILENT),
    ("timed out", LinkLoss.SILENT),
    ("timeout", LinkLoss.SILENT),
    ("no route", LinkLoss.SILENT),
    ("unreachable", LinkLoss.SILENT),
)


def loss_of_status(code: grpc.StatusCode | None, details: str) -> LinkLoss:
    """From how gRPC says that a call ended."""
    if code in _STATUS_LOSSES:
        return _STATUS_LOSSES[code]
    lowered = details.lower()
    return next((loss for mark, loss in _DETAIL_LOSSES if mark in lowered), LinkLoss.RESET)


def loss_of_silence(silent_for_s: float) -> LinkLoss:
    """For the accepting side, where gRPC does not say why a connection ended."""
    return LinkLoss.SILENT if silent_for_s > SILENT_AFTER_S else LinkLoss.RESET


def loss_of_connect(error: BaseException) -> tuple[LinkLoss, str]:
    """From an exception while connecting with TLS, with a detail that says what to do where there is something."""
    match error:
        case ssl.SSLEOFError() | ssl.SSLZeroReturnError():
            return LinkLoss.RESET, "the connection was closed during the handshake"
        case ssl.SSLCertVerificationError():
            return LinkLoss.UNTRUSTED, f"its certificate is not of this pool ({error})"
        case ssl.SSLError() if "certificate" in str(error).lower() or "unknown ca" in str(error).lower():
            return LinkLoss.UNTRUSTED, f"it refused this machine's certificate ({error})"
        case ssl.SSLError():
            return LinkLoss.UNTRUSTED, f"what listens there is no covey link ({error})"
        case ConnectionRefusedError():
            return LinkLoss.REFUSED, "nothing listens there"
        case ConnectionError():
            return LinkLoss.RESET, "the connection was reset"
        case TimeoutError():
            return LinkLoss.SILENT, "no answer in time; a firewall may drop the packets"
        case socket.gaierror():
            return LinkLoss.SILENT, f"the name does not resolve ({error.strerror})"
        case OSError():
            return LinkLoss.SILENT, error.strerror or str(error)
    raise error


class LogBound:
    """Lets each subject through once in LOG_INTERVAL_S: a peer that repeats its fault does not fill the disk."""

    def __init__(self) -> None:
        self._last_s: dict[str, float] = {}

    def allows(self, subject: str, now_s: float) -> bool:
        last_s = self._last_s.get(subject)
        if last_s is not None and now_s - last_s < LOG_INTERVAL_S:
            return False
        if len(self._last_s) >= LOG_SUBJECTS_MAX:
            self._last_s.pop(next(iter(self._last_s)))
        self._last_s[subject] = now_s
        return True

"""The agents' own event-loop lag, from their metrics: which bucket the worst look of a while fell into."""

from __future__ import annotations

import http.client
import re
from collections.abc import Mapping

from tests.lan.agents import HTTP_PORT
from tests.lan.client import inside
from tests.lan.lab import Host

ANSWER_TIMEOUT_S = 5.0
_BUCKET = re.compile(r'^covey_event_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)$', re.MULTILINE)

Buckets = Mapping[float, int]
"""Upper bound in seconds -> looks that were at most so late."""


def buckets(host: Host) -> Buckets:
    """Of the agent on this host; empty where it does not answer."""
    try:
        with inside(host):
            connection = http.client.HTTPConnection("127.0.0.1", HTTP_PORT, timeout=ANSWER_TIMEOUT_S)
            connection.connect()
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
    except (OSError, http.client.HTTPException):
        return {}
    return read(text)


def read(exposition: str) -> Buckets:
    """From the text of /metrics."""
    return {float(bound): int(float(count)) for bound, count in _BUCKET.findall(exposition)}


def worst_s(before: Buckets, after: Buckets) -> float | None:
    """Upper bound of the worst look between two readings of one process; None where there was none."""
    worst, below = None, 0
    for bound, count in sorted(after.items()):
        came = count - before.get(bound, 0)
        if came > below:
            worst = bound
        below = came
    return worst

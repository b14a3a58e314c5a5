"""Every number that a gateway can be set to, with its default and its reason.

Read from covey.toml, environment and flags by the program; validated once here.
"""

from __future__ import annotations

from dataclasses import dataclass

from covey_mesh.core.limits import REQUEST_BODY_BYTES_MAX, STREAM_WINDOW_BYTES


@dataclass(frozen=True, slots=True)
class RequestSettings:
    """How the request runner asks, retries and gives up."""

    # The leader acknowledges at once; longer than a busy event loop's worst pause, shorter than a user's patience.
    ask_acknowledged_within_s: float = 0.4
    # After a missing acknowledgement the next requests decide alone at once instead of each waiting for it.
    leader_distrusted_s: float = 1.0
    # Attempts that may end by a machine's failure before the client is told.
    attempts_max: int = 6
    # A request that ended this many engines is taken for the cause: it must not walk through the whole pool.
    engine_failures_max: int = 3
    # Refusals by full machines; each is cheap, and several rounds fit into a leader's election.
    refusals_max: int = 24
    # No new attempt is started this long after the request's arrival (a running one is left alone).
    retry_within_s: float = 300.0
    # Longest stay in the leader's queue, or in backoff because every machine is busy, without a client deadline.
    queue_wait_s: float = 120.0
    # Longest wait for any machine able to serve: an election and a reconnect fit, an engine's start does not.
    unserved_wait_s: float = 5.0
    # Pause before the first repeated ask, doubled each time up to the largest; both are jittered by half.
    backoff_first_s: float = 0.05
    backoff_max_s: float = 1.0
    # How long a machine that failed this request is not asked again for it (busy ones name their own time).
    failed_machine_excluded_s: float = 3.0
    # Answers that are not streams are held back up to this size, so that a machine's death is retried invisibly.
    buffered_answer_bytes_max: int = 4 * 1024 * 1024
    # All such answers together; beyond it answers are passed on as they come.
    buffered_total_bytes_max: int = 256 * 1024 * 1024
    # Streams are kept as sent up to this size (about 4,000 tokens a MiB), to be continued if their machine dies.
    kept_answer_bytes_max: int = 2 * 1024 * 1024
    # All such streams together; beyond it the longest-running are not continuable.
    kept_total_bytes_max: int = 256 * 1024 * 1024
    # Requests held by this gateway at once; the next one is refused with 503.
    in_flight_max: int = 4096
    # Planning figure where the client names no bound for the answer.
    default_max_output_tokens: int = 256
    # Retry-After of a 503 where nobody knows better.
    retry_after_s: int = 2

    def __post_init__(self) -> None:
        for name in ("attempts_max", "engine_failures_max", "refusals_max", "in_flight_max", "retry_after_s"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        for name in ("ask_acknowledged_within_s", "backoff_first_s", "backoff_max_s", "retry_within_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive")


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """How the HTTP edge listens and what it bears with."""

    # Loopback without a key. A LAN address needs keys (see GatewaySettings of the program).
    host: str = "127.0.0.1"
    port: int = 8080
    # Not 0: other processes listen on the same address, and the kernel deals out connections (SO_REUSEPORT) to so many
    # listening sockets of this one and to theirs, each as likely as any other.
    shares: int = 0
    # Unix socket for local administration, mode 0600; empty: none.
    unix_path: str = ""
    body_bytes_max: int = REQUEST_BODY_BYTES_MAX
    # Bodies of all requests in flight together; the next large one is refused with 503.
    bodies_total_bytes_max: int = 1024 * 1024 * 1024
    header_bytes_max: int = 64 * 1024
    header_count_max: int = 100
    # Slow clients: from a request's first byte to its last header; longest silence within a body; slowest average.
    header_timeout_s: float = 10.0
    body_silence_s: float = 20.0
    body_bytes_per_s_min: int = 1024
    # An idle connection is closed; longer than the usual client pool keeps one (so that the client closes first).
    idle_timeout_s: float = 300.0
    # A reader that takes nothing for this long is cut off and its engine's work is aborted.
    reader_stall_s: float = 120.0
    # Unread bytes at which the engine is asked to pause, and to go on again.
    write_high_bytes: int = STREAM_WINDOW_BYTES
    write_low_bytes: int = STREAM_WINDOW_BYTES // 4
    # Unread bytes beyond which the connection is cut (a source that ignores the pause must not fill the memory).
    unread_bytes_max: int = 16 * 1024 * 1024
    connections_max: int = 2048
    # From one address of the network: whoever takes all that it can get leaves others half.
    connections_per_address_max: int = 1024
    # On the Unix socket, counted apart: administration works while the network's share is used up.
    connections_unix_max: int = 256
    # Requests read ahead on one connection; at the first bound reading pauses, at the second it is refused.
    pipelined_max: int = 8
    pipelined_refused_at: int = 256
    # After a refusal the rest of the client's upload is read and dropped for this long, so that it sees the refusal.
    linger_s: float = 2.0
    # Origins of browser applications that may call with CORS ("*": any); none by default.
    cors_origins: tuple[str, ...] = ()
    # Host names beyond localhost, IP addresses and this machine's own under which keyless loopback answers.
    trusted_hosts: tuple[str, ...] = ()
    # Also ask local clients for a key.
    key_on_loopback: bool = False
    # A page's handler (models, metrics, admin) that takes longer is answered with 504.
    page_timeout_s: float = 30.0

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError("port must be 0 to 65535")
        if self.body_bytes_max > REQUEST_BODY_BYTES_MAX:
            raise ValueError(f"body_bytes_max is at most {REQUEST_BODY_BYTES_MAX}: no link carries more")
        if self.write_low_bytes >= self.write_high_bytes:
            raise ValueError("write_low_bytes must be below write_high_bytes")

"""Every timing constant of the mesh, in one place, each with its reason.

Pure numbers and pure functions of them. Not here: reading a clock, rolling a jitter (both are handed in), sizes
(limits.py).

The figures answer to these goals, for a small pool on a LAN:
  leader killed (connections reset):   redial refused at once + settle + jitter + one round trip + two fsyncs  ~0.3 s
  leader frozen or unplugged:          lease - half a heartbeat + settle + jitter + round trip + two fsyncs    ~1.7 s
  frozen machine noticed by its leader: leader_ask_s + answer_deadline, at most; the others hear it from there  ~1.8 s
  machine back after a long blackhole: one capped dial backoff + one handshake                                 ~1.2 s
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """Durations in seconds of one machine's own clock; the same on every machine of a pool except in tests."""

    # --- leadership -----------------------------------------------------------------------------------------------
    heartbeat_s: float = 0.5
    """A leader renews its grants this often in a small pool: two messages a follower each time, four a second."""
    lease_min_s: float = 1.75
    """The lease of a small pool: outlives a leader whose event loop stalls for 1.2 s at the worst moment (lease less
    drift less one heartbeat), which busy machines do, and leaves room for a campaign before 2 s without a leader."""
    lease_heartbeats_large: int = 4
    """The lease of a large pool, in heartbeats: it outlives three that were lost or late."""
    grants_per_s_max: float = 800.0
    """Grant requests a leader sends a second, at most; what makes the interval grow with the pool."""
    lease_max_s: float = 30.0
    """A node refuses longer leases: above lease_s(PEERS_MAX), below what a person would wait for."""
    clock_drift: float = 0.01
    """How wrong a clock's rate may be (1 %: bad virtual machines; quartz is 100 times better)."""
    campaign_settle_s: float = 0.05
    """Wait after a lease ended before canvassing: the others' grants end within this of ours."""
    campaign_jitter_s: float = 0.15
    """Spread of campaigns, so that mostly one machine canvasses: several round trips of a LAN."""
    campaign_handicap_s: float = 1.0
    """Extra wait of a machine that is no deputy of a large pool: deputies have links to everybody."""
    pre_vote_timeout_s: float = 0.3
    """Patience for pre-vote answers: a LAN's worst round trip with an event loop that is busy."""
    courtesy_s: float = 0.45
    """Having told a candidate to go on, hold one's own campaign this long: pre-vote, two fsyncs, a round trip."""
    courtesies_max: int = 3
    """Times that a leaderless machine holds back in a row: a candidate that never succeeds must not silence it."""
    canvass_retry_s: float = 0.1
    """First retry after a lost pre-vote; doubles up to `canvass_retry_max_s`."""
    canvass_retry_max_s: float = 1.0
    """Cap of that: who cannot reach the known leader asks once a second, no more."""
    boot_listen_s: float = 0.5
    """A machine that has just started listens this long for a leader before it canvasses."""
    persist_retry_s: float = 2.0
    """A disk that refused a promise is tried again after this long."""

    # --- liveness of links ------------------------------------------------------------------------------------------
    link_heartbeat_s: float = 0.25
    """On a link with requests in flight: after this long without a byte, ask."""
    idle_heartbeat_s: float = 1.0
    """On other links: a second for each machine of the pool, so that all of a machine's idle links together cost it
    about one message a second. Nobody waits for them: a machine that is gone is noticed by its leader, which tells
    all, and a link is asked at once when a request needs it, when the leader doubts it, and in a pre-vote."""
    idle_heartbeat_max_s: float = 30.0
    """Cap of that growth: below the idle time after which routers and firewalls drop a connection's state."""
    leader_ask_factor: float = 1.1
    """On the link to the leader, ask when its heartbeat is late by a tenth: normally grant traffic is the proof."""
    fresh_window_s: float = 0.5
    """A link whose question is unanswered for longer is not fresh both ways: it does not count in a pre-vote."""
    answer_deadline_s: float = 1.25
    """A link on which a question is unanswered, and nothing else is heard, for this long is closed as silent."""
    deaf_deadline_s: float = 6.0
    """A peer that is heard but answers no question for this long cannot hear us: closed as silent."""
    lag_s: float = 0.5
    """A timer this late means that this machine stalled: unanswered questions are forgiven, not blamed on peers."""

    replaced_linger_s: float = 0.5
    """A link that another one replaced stays open this long: the other side may learn of the successor later."""

    # --- dialing ----------------------------------------------------------------------------------------------------
    dial_backoff_s: float = 0.1
    """First pause after a failed dial; doubles."""
    dial_backoff_max_s: float = 1.0
    """Cap for machines seen recently: they are back within this after a blackhole."""
    dial_backoff_gone_s: float = 30.0
    """Cap for machines not seen recently, and for addresses where a stranger answered."""
    dial_backoff_pinned_s: float = 2.0
    """Cap for addresses that a person configured: tried forever."""
    recently_s: float = 600.0
    """How long after its last sign a machine counts as seen recently."""
    dial_courtesy_s: float = 0.15
    """On a first hint the machine with the higher id waits this long: mostly one of two dials, not both."""
    dial_deadline_s: float = 6.0
    """A dial that the transport never ended is written off after this long (the transport's own limit is shorter)."""
    simultaneous_s: float = 2.0
    """Two links between one pair that came up within this are one simultaneous dial, not a reconnection."""

    # --- what is told to whom ---------------------------------------------------------------------------------------
    gossip_s: float = 30.0
    """A peer list goes to one random linked machine this often (and to each on connecting)."""
    report_s: float = 0.2
    """Loads and views are sent at most this often in a small pool; grows with it."""
    report_machines_per_s: float = 200.0
    """Reports that a leader sends a second, at most."""
    report_readings_s: float = 5.0
    """A load that differs only in readings for people (power, temperature, free memory) is told this often at most."""

    # --- forgetting -------------------------------------------------------------------------------------------------
    listed_unreachable_s: float = 900.0
    """An unreachable machine is listed (as unreachable) this long."""
    remember_s: float = 7 * 86400.0
    """A machine once met is dialed, rarely, this long after it was last seen."""
    remember_unproven_s: float = 600.0
    """A hint that never led to a machine of the pool is dropped after this long without renewal."""
    sweep_s: float = 10.0
    """How often the table is looked through for what to forget."""

    # --- requests over links ------------------------------------------------------------------------------------------
    open_wait_s: float = 2.0
    """How long a request waits for a link that has to be dialed first."""
    stop_flush_s: float = 0.05
    """On stopping: time for the last messages (lease released) to leave."""


LAN = Timing()
"""An office: wired or wireless LAN, laptops that sleep."""

FAST = Timing(
    heartbeat_s=0.1,
    lease_min_s=0.35,
    boot_listen_s=0.1,
    campaign_settle_s=0.01,
    campaign_jitter_s=0.03,
    pre_vote_timeout_s=0.06,
    courtesy_s=0.1,
    canvass_retry_s=0.02,
    canvass_retry_max_s=0.2,
    link_heartbeat_s=0.05,
    idle_heartbeat_s=0.2,
    fresh_window_s=0.1,
    answer_deadline_s=0.25,
    deaf_deadline_s=1.2,
    dial_backoff_s=0.02,
    dial_backoff_max_s=0.2,
    dial_courtesy_s=0.03,
    simultaneous_s=0.4,
    replaced_linger_s=0.1,
    report_s=0.04,
    stop_flush_s=0.02,
)
"""Five times as fast: for tests with real sockets on one machine."""


@dataclass(frozen=True, slots=True)
class EtcdTiming:
    """Durations in seconds of leadership that is held in etcd (io/etcd_leadership.py).

    Debian's etcd 3.4 with its own defaults writes again 1.3 to 1.8 s after its leader was killed; the lease must
    outlive that, or such a fault would cost the pool its leader: renew_s + failover + one lost call < ttl_s.
    """

    ttl_s: float = 4.0
    """The lease of the key; whole seconds. How long a frozen or unplugged leader keeps the others waiting."""
    renew_s: float = 1.0
    """The holder renews this often: one read and one renewal."""
    call_timeout_s: float = 1.0
    """Patience for one call: then the next member is asked. Two may fail in a row within a lease."""
    retry_s: float = 0.2
    """Pause after a failed call; up to twice that, so that machines spread."""
    watch_s: float = 5.0
    """A watch is begun anew after this long: a member that vanished silently would never end it."""
    take_spread_s: float = 0.1
    """Machines that see the key go reach for it within this, so that mostly one writes."""
    stand_within_s: float = 10.0
    """Who holds the key and does not lead for this long gives it up: longer than any campaign that can succeed."""
    hold_back_s: float = 20.0
    """And leaves it to others for this long: time enough for two of them to try."""


LAN_ETCD = EtcdTiming()
"""etcd on three machines of the same LAN."""


LEASE_POOL_STEP = 128
"""Machines between two lease lengths."""


def heartbeat_interval_s(pool_size: int, timing: Timing = LAN) -> float:
    """Time between a leader's heartbeats: constant for small pools, then such that `grants_per_s_max` holds."""
    return max(timing.heartbeat_s, pool_size / timing.grants_per_s_max)


def lease_s(pool_size: int, timing: Timing = LAN) -> float:
    """How long a node's grant lasts from the receipt of the request. In steps, since a longer one must be written."""
    in_steps = -(-pool_size // LEASE_POOL_STEP) * LEASE_POOL_STEP
    large_s = timing.lease_heartbeats_large * in_steps / timing.grants_per_s_max
    return min(timing.lease_max_s, max(timing.lease_min_s, large_s))


def leader_lease_s(granted_lease_s: float, timing: Timing = LAN) -> float:
    """How long, from sending, a leader may count on a grant of `granted_lease_s`.

    With d the drift: the leader's clock shows x after at most x/(1-d) true seconds, the node's shows the lease after
    at least lease/(1+d). The leader stops first if x/(1-d) <= lease/(1+d).
    """
    return granted_lease_s * (1 - timing.clock_drift) / (1 + timing.clock_drift)


def canvass_retry_s(lost_in_a_row: int, jitter: float, timing: Timing = LAN) -> float:
    """Pause before the next pre-vote; `jitter` in [0, 1)."""
    pause_s = min(timing.canvass_retry_max_s, timing.canvass_retry_s * float(2 ** min(lost_in_a_row, 16)))
    return pause_s * (1 + jitter / 2)


def idle_heartbeat_s(pool_size: int, timing: Timing = LAN) -> float:
    """After this long without a byte on an idle link, ask."""
    return min(timing.idle_heartbeat_max_s, timing.idle_heartbeat_s * max(1, pool_size))


def leader_ask_s(pool_size: int, timing: Timing = LAN) -> float:
    """After this long without a byte between a leader and its follower, ask."""
    return timing.leader_ask_factor * heartbeat_interval_s(pool_size, timing)


def report_interval_s(pool_size: int, timing: Timing = LAN) -> float:
    """Least time between two load reports of a machine, and between two view reports of a leader."""
    return max(timing.report_s, pool_size / timing.report_machines_per_s)


def dial_backoff_s(failures: int, cap_s: float, jitter: float, timing: Timing = LAN) -> float:
    """Pause after the `failures`-th failed dial in a row (0: none yet); `jitter` in [0, 1) takes off up to half."""
    if failures <= 0:
        return 0.0
    pause_s = min(cap_s, timing.dial_backoff_s * float(2 ** min(failures - 1, 20)))
    return pause_s * (1 - jitter / 2)

"""Every formula of the mesh's timing, as a table."""

from __future__ import annotations

import pytest

from covey_mesh.core import timing
from covey_mesh.core.census import FULL_MESH_MAX
from covey_mesh.core.limits import PEERS_MAX
from covey_mesh.core.timing import FAST, LAN


@pytest.mark.parametrize(("machines", "expected_s"), [(1, 0.5), (32, 0.5), (400, 0.5), (800, 1.0), (1000, 1.25)])
def test_heartbeat_interval(machines: int, expected_s: float) -> None:
    assert timing.heartbeat_interval_s(machines) == pytest.approx(expected_s)


@pytest.mark.parametrize(("machines", "expected_s"), [(1, 1.75), (128, 1.75), (256, 1.75), (400, 2.56), (1000, 5.12)])
def test_lease(machines: int, expected_s: float) -> None:
    assert timing.lease_s(machines) == pytest.approx(expected_s)


@pytest.mark.parametrize("machines", [1, 50, 300, 1000, PEERS_MAX])
@pytest.mark.parametrize("preset", [LAN, FAST])
def test_a_lease_outlives_lost_heartbeats_and_is_never_refused_for_its_length(
    machines: int, preset: timing.Timing
) -> None:
    assert timing.leader_lease_s(timing.lease_s(machines, preset), preset) >= 3.4 * timing.heartbeat_interval_s(
        machines, preset
    )
    assert timing.lease_s(machines, preset) <= preset.lease_max_s


@pytest.mark.parametrize("leader_rate", [0.99, 1.0, 1.01])
@pytest.mark.parametrize("node_rate", [0.99, 1.0, 1.01])
def test_the_leader_stops_first_whatever_the_clocks_do(leader_rate: float, node_rate: float) -> None:
    leader_stops_s = timing.leader_lease_s(1.75) / leader_rate
    node_lets_go_s = 1.75 / node_rate
    assert leader_stops_s <= node_lets_go_s


@pytest.mark.parametrize(
    ("lost", "jitter", "expected_s"), [(0, 0.0, 0.1), (1, 0.0, 0.2), (3, 0.0, 0.8), (9, 0.0, 1.0), (99, 1.0, 1.5)]
)
def test_canvass_retry(lost: int, jitter: float, expected_s: float) -> None:
    assert timing.canvass_retry_s(lost, jitter) == pytest.approx(expected_s)


@pytest.mark.parametrize(("machines", "expected_s"), [(1, 1.0), (2, 2.0), (10, 10.0), (32, 30.0), (1000, 30.0)])
def test_idle_heartbeat(machines: int, expected_s: float) -> None:
    assert timing.idle_heartbeat_s(machines) == pytest.approx(expected_s)


@pytest.mark.parametrize(("machines", "expected_s"), [(2, 0.2), (40, 0.2), (1000, 5.0)])
def test_report_interval(machines: int, expected_s: float) -> None:
    assert timing.report_interval_s(machines) == pytest.approx(expected_s)


@pytest.mark.parametrize(
    ("failures", "cap_s", "jitter", "expected_s"),
    [
        (0, 1.0, 0.0, 0.0),
        (1, 1.0, 0.0, 0.1),
        (2, 1.0, 0.0, 0.2),
        (5, 1.0, 0.0, 1.0),
        (5, 1.0, 1.0, 0.5),
        (99, 30, 0, 30),
    ],
)
def test_dial_backoff(failures: int, cap_s: float, jitter: float, expected_s: float) -> None:
    assert timing.dial_backoff_s(failures, cap_s, jitter) == pytest.approx(expected_s)


def test_a_frozen_machine_is_noticed_within_two_seconds() -> None:
    assert timing.leader_ask_s(32) + LAN.answer_deadline_s <= 1.8


def test_a_leader_frozen_or_unplugged_is_replaced_within_two_seconds() -> None:
    """The lease by the slowest clock, and the slowest campaign that meets no rival; two fsyncs and a round trip fit."""
    campaign_s = LAN.campaign_settle_s + LAN.campaign_jitter_s
    assert timing.lease_s(32) * (1 + LAN.clock_drift) + campaign_s <= 1.97


def test_a_leader_that_stalls_for_a_second_goes_on_leading() -> None:
    stalled_s = timing.leader_lease_s(timing.lease_s(32)) - timing.heartbeat_interval_s(32)
    assert stalled_s >= 1.2


@pytest.mark.parametrize("machines", [2, 3, 10, 32, FULL_MESH_MAX])
def test_an_idle_machine_of_a_full_mesh_says_less_than_five_things_a_second(machines: int) -> None:
    """Grants asked for and given, and on the other links one question and one answer by one side each time."""
    granting = 2 * (machines - 1) / machines / timing.heartbeat_interval_s(machines)
    others = (machines - 2) / timing.idle_heartbeat_s(machines)
    assert granting + others < 5

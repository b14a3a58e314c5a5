"""The scenarios: a name, what it is, and what is done when (seconds since its start), on five hosts under load.

Whatever a scenario leaves broken is mended at its end, and the pool must become whole again.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.lan.chaos.faults import (
    EVERYBODY,
    F1,
    F2,
    F3,
    LEADER,
    SERVER,
    Fault,
    FillDisk,
    Forget,
    FreeDisk,
    Freeze,
    FreezeEngines,
    Heal,
    Inner,
    Kill,
    KillEngines,
    Lines,
    NewMachine,
    OneWay,
    Partition,
    Plug,
    Restart,
    Start,
    Thaw,
    ThawEngines,
    Unplug,
    all_but,
)
from tests.lan.wires import Line

Steps = tuple[tuple[float, Fault], ...]


@dataclass(frozen=True)
class Scenario:
    """`seconds`: how long the load runs. `cut_off`: whose gateways reach nobody for a while, and may then refuse what
    their own machines do not have.

    `moves`: some answer must have been retried or continued elsewhere, else the fault has struck nobody.
    `wiped`: a machine's identity or ballot is removed on purpose, so that its ballots may begin anew.
    """

    name: str
    what: str
    seconds: float
    steps: Steps = ()
    mix: str = "usual"
    cut_off: tuple[str, ...] = ()
    wiped: bool = False
    moves: bool = False


def _flapping(role: str, times: int, every_s: float) -> Steps:
    steps: list[tuple[float, Fault]] = []
    for number in range(times):
        steps.append((2 + number * every_s, Unplug((role,))))
        steps.append((2 + (number + 0.5) * every_s, Plug((role,))))
    return tuple(steps)


DURATION_S = 8.0
_ALL: tuple[Scenario, ...] = (
    Scenario("undisturbed", "nothing happens", DURATION_S),
    # --- processes die
    Scenario("leader-killed", "kill -9 of the leader", 9, ((2, Kill((LEADER,))), (6, Start((LEADER,))))),
    Scenario("follower-killed", "kill -9 of a follower", 9, ((2, Kill((F1,))), (6, Start((F1,))))),
    Scenario(
        "killed-before-first-token",
        "kill -9 of a machine while its requests wait for their first token",
        9,
        ((2, Kill((F1,))), (6, Start((F1,)))),
        mix="before-first-token",
        moves=True,
    ),
    Scenario(
        "killed-mid-stream",
        "kill -9 of a machine in the middle of long streams",
        11,
        ((3, Kill((F1,))), (7, Start((F1,)))),
        mix="mid-stream",
        moves=True,
    ),
    Scenario(
        "leader-and-server-killed",
        "kill -9 of the leader and a serving machine at the same moment, in the middle of long streams",
        12,
        ((3, Kill((LEADER, F1))), (7, Start((LEADER, F1)))),
        mix="mid-stream",
        moves=True,
    ),
    Scenario(
        "two-killed",
        "kill -9 of two followers at once",
        11,
        ((2, Kill((F1, F2))), (6, Start((F1, F2)))),
    ),
    Scenario(
        "second-server-killed",
        "kill -9 of a machine, and one second later of another one, in the middle of long streams",
        13,
        ((3, Kill((F1,))), (4, Kill((F2,))), (8, Start((F1, F2)))),
        mix="mid-stream",
        moves=True,
    ),
    Scenario(
        "leaders-killed-in-turn",
        "kill -9 of the leader, then of two who may have followed it",
        14,
        ((2, Kill((LEADER,))), (4, Kill((F1,))), (5, Start((LEADER,))), (7, Kill((F2,))), (9, Start((F1, F2)))),
    ),
    Scenario(
        "rolling-restart", "SIGTERM and start of every machine, one after the other", 16, ((1, Restart(EVERYBODY)),)
    ),
    # --- processes freeze
    Scenario("leader-frozen-3s", "SIGSTOP of the leader, 3 s", 10, ((2, Freeze((LEADER,))), (5, Thaw((LEADER,))))),
    Scenario("follower-frozen-3s", "SIGSTOP of a follower, 3 s", 10, ((2, Freeze((F1,))), (5, Thaw((F1,))))),
    Scenario("leader-frozen-30s", "SIGSTOP of the leader, 30 s", 37, ((2, Freeze((LEADER,))), (32, Thaw((LEADER,))))),
    Scenario("follower-frozen-30s", "SIGSTOP of a follower, 30 s", 37, ((2, Freeze((F1,))), (32, Thaw((F1,))))),
    Scenario(
        "loop-blocked",
        "the leader's event loop stands still for 3 s; its sockets live",
        10,
        ((2, Inner((LEADER,), "block 3")),),
    ),
    # --- cables
    Scenario(
        "leader-unplugged",
        "the leader's cable out for 6 s",
        13,
        ((2, Unplug((LEADER,))), (8, Plug((LEADER,)))),
        cut_off=(LEADER,),
    ),
    Scenario(
        "follower-unplugged",
        "a follower's cable out for 6 s",
        13,
        ((2, Unplug((F1,))), (8, Plug((F1,)))),
        cut_off=(F1,),
    ),
    Scenario("flapping-link", "a follower's cable out and in every 2 s", 17, _flapping(F1, 5, 2.0), cut_off=(F1,)),
    Scenario(
        "flapping-leader", "the leader's cable out and in every 2 s", 17, _flapping(LEADER, 5, 2.0), cut_off=(LEADER,)
    ),
    Scenario(
        "blackhole-30s",
        "nothing to or from a follower for 30 s, carrier up",
        39,
        ((2, Partition((F1,), all_but(F1))), (32, Heal())),
        cut_off=(F1,),
    ),
    # --- cuts
    Scenario(
        "partition-and-heal",
        "two against three for 8 s",
        16,
        ((2, Partition((LEADER, F1), all_but(LEADER, F1))), (10, Heal())),
    ),
    Scenario(
        "leader-sends-but-hears-not",
        "nothing reaches the leader for 6 s",
        14,
        ((2, OneWay(all_but(LEADER), (LEADER,))), (8, Heal())),
        cut_off=(LEADER,),
    ),
    Scenario(
        "leader-hears-but-sends-not",
        "nothing leaves the leader for 6 s",
        14,
        ((2, OneWay((LEADER,))), (8, Heal())),
        cut_off=(LEADER,),
    ),
    Scenario(
        "follower-sends-but-hears-not",
        "nothing reaches a follower for 6 s",
        14,
        ((2, OneWay(all_but(F1), (F1,))), (8, Heal())),
        cut_off=(F1,),
    ),
    Scenario(
        "follower-hears-but-sends-not",
        "nothing leaves a follower for 6 s",
        14,
        ((2, OneWay((F1,))), (8, Heal())),
        cut_off=(F1,),
    ),
    Scenario(
        "leader-cut-from-one",
        "leader and one machine cannot talk, both reach all others: gateways reach the leader, that node does not",
        14,
        ((2, Partition((LEADER,), (F1,))), (8, Heal())),
    ),
    Scenario(
        "node-reaches-leader-gateway-does-not",
        "frames from a gateway to the leader are lost, the way back and all others pass",
        14,
        ((2, OneWay((F2,), (LEADER,))), (8, Heal())),
    ),
    # --- bad wires
    Scenario("loss-5", "5 % of all frames lost", 12, ((1, Lines(Line(loss=0.05))),)),
    Scenario("loss-20", "20 % of all frames lost", 14, ((1, Lines(Line(loss=0.2))),), cut_off=EVERYBODY),
    Scenario("jitter-100ms", "0 to 100 ms of delay on every frame", 12, ((1, Lines(Line(jitter_s=0.1))),)),
    Scenario("duplication", "20 % of all frames doubled", 10, ((1, Lines(Line(duplication=0.2))),)),
    Scenario("reordering", "20 % of all frames overtaken", 10, ((1, Lines(Line(reordering=0.2))),)),
    Scenario(
        "no-multicast",
        "no multicast at all, and a machine restarted that has forgotten its peers' addresses",
        13,
        (
            (0.5, Lines(Line(multicast=False))),
            (1, Kill((F1,))),
            (2, Forget((F1,), ("peers.json",))),
            (3, Start((F1,))),
        ),
    ),
    # --- disks, identities, clocks, engines
    Scenario(
        "new-machine",
        "a machine killed, its state directory wiped, joined again by invitation",
        14,
        ((2, Kill((F3,))), (4, NewMachine((F3,)))),
        wiped=True,
    ),
    Scenario(
        "ballot-lost",
        "the leader killed and started at once without its stored ballot",
        12,
        ((2, Kill((LEADER,))), (2.1, Forget((LEADER,), ("ballot.json",))), (2.2, Start((LEADER,)))),
        wiped=True,
    ),
    Scenario(
        "disk-full",
        "no byte free on two followers' disks while the leader is killed",
        14,
        ((1, FillDisk((F1, F2))), (2, Kill((LEADER,))), (7, FreeDisk((F1, F2))), (8, Start((LEADER,)))),
    ),
    Scenario(
        "leaders-disk-full",
        "no byte free on the leader's disk",
        10,
        ((2, FillDisk((LEADER,))), (7, FreeDisk((LEADER,)))),
    ),
    Scenario(
        "leader-clock-jumps",
        "the leader's clock jumps 20 s forward, as after a suspend",
        10,
        ((2, Inner((LEADER,), "clock 20")),),
    ),
    Scenario(
        "follower-clock-jumps",
        "a follower's clock jumps 20 s forward, as after a suspend",
        10,
        ((2, Inner((F1,), "clock 20")),),
    ),
    Scenario("engine-dies", "a follower's engines die", 10, ((2, Inner((F1,), "engine die")),)),
    Scenario(
        "engine-hangs",
        "the engines of two followers accept and never answer, for 18 s",
        24,
        ((2, Inner((F1, F2), "engine hang")), (20, Inner((F1, F2), "engine heal"))),
        moves=True,
    ),
)

SCENARIOS = {scenario.name: scenario for scenario in _ALL}
"""In the order in which they run."""

SHORT = ("leader-and-server-killed", "leader-frozen-3s", "partition-and-heal", "loss-5")
"""Those of the ordinary tests."""

_VLLM: tuple[Scenario, ...] = (
    Scenario("vllm-undisturbed", "real vLLM engines on two of four machines; nothing happens", 10, mix="vllm"),
    Scenario(
        "vllm-leader-frozen",
        "vLLM; SIGSTOP of the leader's agent, 4 s",
        12,
        ((3, Freeze((LEADER,))), (7, Thaw((LEADER,)))),
        mix="vllm",
    ),
    Scenario(
        "vllm-engine-frozen",
        "vLLM; SIGSTOP of one machine's engine, 12 s: it accepts and never answers",
        20,
        ((3, FreezeEngines((SERVER,))), (15, ThawEngines((SERVER,)))),
        mix="vllm",
        moves=True,
    ),
    Scenario(
        "vllm-engine-killed",
        "vLLM; kill -9 of one machine's engine in the middle of streams",
        15,
        ((4, KillEngines((SERVER,))),),
        mix="vllm",
        moves=True,
    ),
    Scenario(
        "vllm-server-killed-mid-stream",
        "vLLM; kill -9 of a machine with an engine in the middle of streams",
        15,
        ((4, Kill((SERVER,))), (14, Start((SERVER,)))),
        mix="vllm",
        moves=True,
    ),
)
VLLM_SCENARIOS = {scenario.name: scenario for scenario in _VLLM}
"""Those with real engines, in the order in which they run."""

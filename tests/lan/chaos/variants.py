"""What a chaos run is made of: which engines on how many hosts, who serves what, who gets which role."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.lan.chaos.faults import EVERYBODY, LEADER, SERVER
from tests.lan.chaos.kinds import (
    DECODE_TOKENS_PER_S,
    PREFILL_TOKENS_PER_S,
    SIMULATED_KINDS,
    VLLM_KINDS,
    far_model,
    models,
)

Roles = dict[str, str]
"""Role -> name of the host."""


@dataclass(frozen=True)
class Variant:
    """`models`: host name -> what it serves. `roles`: of the leader's name and all names, in order.

    `exact`: the same question has the same answer everywhere and always.
    """

    engine: str
    hosts: int
    settings: tuple[str, ...]
    models: Callable[[str], Sequence[str]]
    roles: Callable[[str, Sequence[str]], Roles]
    kinds: tuple[str, ...]
    exact: bool
    ready_within_s: float
    whole_within_s: float
    pause_s_max: float


def simulated_roles(leads: str, names: Sequence[str]) -> Roles:
    """F2 serves the leader's far model, F1 and F3 the other one."""
    others = [name for name in names if name != leads]
    f2 = next(name for name in others if far_model(name) == far_model(leads))
    f1, f3 = [name for name in others if far_model(name) != far_model(leads)][:2]
    rest = [name for name in others if name not in (f1, f2, f3)]
    return dict(zip(EVERYBODY, [leads, f1, f2, f3, *rest], strict=False))


def vllm_models(host: str) -> list[str]:
    return ["demo"] if host in VLLM_HOSTS else []


def vllm_roles(leads: str, names: Sequence[str]) -> Roles:
    return {LEADER: leads, SERVER: next(name for name in names if name in VLLM_HOSTS and name != leads)}


VLLM_HOSTS = ("h1", "h2")
"""As many real engines as two cores carry; the other machines have none."""

SIMULATED = Variant(
    engine="simulated",
    hosts=len(EVERYBODY),
    settings=(
        *("--engine", "simulated"),
        *("--simulated-prefill-tokens-per-s", str(PREFILL_TOKENS_PER_S)),
        *("--simulated-decode-tokens-per-s", str(DECODE_TOKENS_PER_S)),
    ),
    models=models,
    roles=simulated_roles,
    kinds=tuple(SIMULATED_KINDS),
    exact=True,
    ready_within_s=30.0,
    whole_within_s=40.0,
    pause_s_max=0.1,
)
VLLM = Variant(
    engine="vllm",
    hosts=4,
    settings=("--kv-cache-bytes", "64M"),
    models=vllm_models,
    roles=vllm_roles,
    kinds=tuple(VLLM_KINDS),
    exact=False,
    ready_within_s=400.0,
    whole_within_s=400.0,
    pause_s_max=1.0,
)

"""Speed of a machine before anything was measured on it: a prior from memory bandwidth and FLOPs.

Decoding one stream reads every weight once a token (memory bound); prefill does about two FLOPs a weight and token
(compute bound): Pope et al., "Efficiently Scaling Transformer Inference" (MLSys 2023). Figures of the table are the
vendors' data sheets: memory bandwidth and dense 16-bit tensor FLOPs with 32-bit accumulation. A new GPU is one line.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from covey_mesh.core.facts import Member


@dataclass(frozen=True, slots=True)
class Hardware:
    """What bounds inference."""

    bandwidth_bytes_per_s: float
    flops: float


def _gpu(gigabytes_per_s: float, teraflops: float) -> Hardware:
    return Hardware(gigabytes_per_s * 1e9, teraflops * 1e12)


GPUS: tuple[tuple[str, Hardware], ...] = (
    # The first name contained in the driver's name counts, so longer names stand before shorter ones.
    ("b200", _gpu(8000, 2250)),
    ("h200", _gpu(4800, 989)),
    ("h100 pcie", _gpu(2000, 756)),
    ("h100", _gpu(3350, 989)),
    ("a100", _gpu(1555, 312)),
    ("rtx pro 6000", _gpu(1792, 250)),
    ("rtx 6000 ada", _gpu(960, 182)),
    ("rtx a6000", _gpu(768, 155)),
    ("rtx a5000", _gpu(768, 111)),
    ("rtx a4000", _gpu(448, 77)),
    ("l40s", _gpu(864, 362)),
    ("l40", _gpu(864, 181)),
    ("l4", _gpu(300, 121)),
    ("a10", _gpu(600, 125)),
    ("v100", _gpu(900, 112)),
    ("t4", _gpu(320, 65)),
    ("gb10", _gpu(273, 62)),
    ("rtx 5090", _gpu(1792, 210)),
    ("rtx 5080", _gpu(960, 113)),
    ("rtx 5070 ti", _gpu(896, 88)),
    ("rtx 5070", _gpu(672, 62)),
    ("rtx 5060", _gpu(448, 48)),
    ("rtx 4090", _gpu(1008, 165)),
    ("rtx 4080", _gpu(717, 97)),
    ("rtx 4070 ti", _gpu(504, 80)),
    ("rtx 4070", _gpu(504, 58)),
    ("rtx 4060", _gpu(272, 30)),
    ("rtx 3090", _gpu(936, 71)),
    ("rtx 3080", _gpu(760, 60)),
    ("rtx 3070", _gpu(448, 41)),
    ("rtx 3060", _gpu(360, 26)),
    ("rtx 2080 ti", _gpu(616, 54)),
)

GPU_DEFAULT = _gpu(300, 20)
"""A GPU that the table does not know: a small one."""

CPU_BANDWIDTH_BYTES_PER_S = 30e9
"""Dual-channel memory, as on most desktops."""

CPU_FLOPS_PER_CORE = 30e9
"""Reached, not peak: 256-bit fused multiply-add at 3 GHz peaks at about 96e9."""

BANDWIDTH_REACHED = 0.6
FLOPS_REACHED = 0.35
"""Shares of the data sheet that engines commonly reach; on the low side, since a prior must be conservative."""

BYTES_PER_PARAMETER = 2.0
"""bfloat16; a quantised model is faster than its prior."""


def hardware_of(member: Member) -> Hardware:
    """The machine's best single GPU, else its CPU."""
    if member.load.gpus:
        return max((gpu_hardware(gpu.name) for gpu in member.load.gpus), key=lambda h: h.bandwidth_bytes_per_s)
    cores = min(max(member.facts.cpu_count, 1), 1024)
    return Hardware(CPU_BANDWIDTH_BYTES_PER_S, CPU_FLOPS_PER_CORE * cores)


@lru_cache(maxsize=1024)
def gpu_hardware(name: str) -> Hardware:
    """By the driver's name, as in "NVIDIA GeForce RTX 4090"."""
    lowered = name.lower()
    return next((hardware for part, hardware in GPUS if part in lowered), GPU_DEFAULT)


def prefill_prior_tokens_per_s(hardware: Hardware, parameters: float) -> float:
    return FLOPS_REACHED * hardware.flops / (2.0 * parameters)


def decode_prior_tokens_per_s(hardware: Hardware, parameters: float) -> float:
    """Of one stream."""
    return BANDWIDTH_REACHED * hardware.bandwidth_bytes_per_s / (BYTES_PER_PARAMETER * parameters)

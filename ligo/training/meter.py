"""How fast a step was and how much memory it took: what is measured, and differs between equal runs."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping
from typing import Any

import torch

from ligo.core import distributed

PEAK_FLOPS = {
    "GB200": 2.5e15,
    "B200": 2.25e15,
    "H200": 989.4e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989.4e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "A10G": 70e12,
    "A10": 125e12,
    "V100": 125e12,
    "4090": 165.2e12,
    "3090": 71e12,
}
"""Peak FLOP/s of one GPU by (part of) its name, dense, in half precision; from the makers' data sheets. The first that fits."""


def measured(tokens: int, flops: float, seconds: float) -> dict[str, Any]:
    """Speed and memory of one step, over all ranks.

    `mfu` is model FLOPs utilisation as PaLM defines it (Chowdhery et al. 2022, arXiv 2204.02311, appendix B): the
    FLOPs that the model needs, nothing computed twice, per second, over the peak of all GPUs. The FLOPs are those of
    the savings table: three times the forward pass, attention over the full length, lookups free. None without a
    GPU, or with one that is not in the table.

    Args:
        tokens: of the step.
        flops: of the step, forward and backward.
    """
    peak = peak_flops()
    utilisation = None if peak is None else flops / seconds / (peak * distributed.world_size())
    return {"tokens_per_s": tokens / seconds, "mfu": utilisation, "memory_bytes": peak_memory()}


def peak_flops(table: Mapping[str, float] = PEAK_FLOPS) -> float | None:
    """Of this rank's GPU, or None."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((peak for part, peak in table.items() if part in name), None)


def peak_memory() -> int:
    """The most bytes that this rank has held so far: of the GPU, or of its process where there is none."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

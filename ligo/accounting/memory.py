"""What a growth needs in memory and on disk, estimated from shapes alone; activations are not included."""

from __future__ import annotations

from dataclasses import dataclass

BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
_LIBRARIES = 2**29  # torch, and buffers


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes."""

    write_peak: int
    """Writing the grown model: at most three times the largest tensor in the dtype of the arithmetic, and libraries
    and buffers; nothing that adds up."""
    learn_peak: int
    """Learning: the small model with gains folded and unfolded and mixed to the target's depth, all grown
    weights, half-grown and whole, and their gradients, in float32."""
    train_per_rank: int
    """Training: weights, gradients and Adam states on each rank."""
    disk: int
    """The grown checkpoint; with training, also the trained one and three checkpoints of an arm's state."""


def write_peak(largest_bytes: int) -> int:
    """Bytes that a process takes to write a grown model whose largest tensor has so many while it is made."""
    return 3 * largest_bytes + _LIBRARIES


def estimate(
    *,
    small_parameters: int,
    target_parameters: int,
    depth_ratio: float,
    largest_tensor: int,
    dtype: str,
    trains: bool,
    zero_stage: int,
    world_size: int,
    precision: str,
) -> MemoryEstimate:
    """Estimate memory; ZeRO as in Rajbhandari et al. 2020 (arXiv 1910.02054), table 1.

    Args:
        depth_ratio: target layers per small layer.
        largest_tensor: elements of the largest tensor.
        precision: fp32 (4 bytes each for weight and gradient) or bf16 (2 each, and a float32 master copy).
    """
    weight = gradient = 4 if precision == "fp32" else 2
    states = 8 if precision == "fp32" else 12
    shares = [weight, gradient, states]  # ZeRO shards them from the last: states, gradients, weights
    per_parameter = sum(
        part / world_size if len(shares) - index <= zero_stage else part for index, part in enumerate(shares)
    )
    grown = target_parameters * BYTES[dtype]
    trained = target_parameters * (4 + 3 * (weight + states)) if trains else 0
    compute = max(BYTES[dtype], 4)
    return MemoryEstimate(
        write_peak=write_peak(largest_tensor * compute),
        learn_peak=round(4 * (2 + depth_ratio) * small_parameters) + 12 * target_parameters,
        train_per_rank=round(per_parameter * target_parameters),
        disk=grown + trained,
    )

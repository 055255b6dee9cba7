"""FLOPs by formula, one convention everywhere.

A multiply-add is two FLOPs. Training costs three times the forward pass. Embedding lookups are free,
the output projection is a matmul, attention is counted over the full length (causal masking is not
discounted), a classification head runs once per sequence, recomputation is not counted. With eager attention
this equals torch's own counter.
"""

from __future__ import annotations

from dataclasses import dataclass

from ligo.families.base import Family


@dataclass(frozen=True)
class ModelFlops:
    """FLOPs per token of one model at one sequence length."""

    forward: int

    @property
    def training(self) -> int:
        """Forward and backward: 3x forward."""
        return 3 * self.forward


def recomputed_flops(family: Family, sequence_length: int) -> int:
    """Per token, where activations of layers are not kept: their forward pass once more. Apart from training's own."""
    inside = [spec for spec in family.tensors if len(spec.axes) >= 2 and spec.layer is not None]
    weights = round(sum(spec.num_elements(family.spaces) * spec.active_share for spec in inside))
    return 2 * weights + family.attention_flops(sequence_length)


def sequence_flops(family: Family, sequence_length: int) -> int:
    """Forward FLOPs of one sequence: 2 per weight of every matrix and token it is multiplied with, attention, a tied head."""
    matrices = [spec for spec in family.tensors if len(spec.axes) >= 2 and not spec.lookup]
    # a share of 0: once per sequence, as classification heads
    products = sum(
        round(spec.num_elements(family.spaces) * (spec.active_share * sequence_length or 1))
        for spec in matrices
    )
    per_token = family.head_flops + family.attention_flops(sequence_length)
    return 2 * products + sequence_length * per_token


def model_flops(family: Family, sequence_length: int) -> ModelFlops:
    """FLOPs per token, those of a sequence dealt out to its tokens."""
    return ModelFlops(round(sequence_flops(family, sequence_length) / sequence_length))

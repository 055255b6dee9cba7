"""FLOPs by formula, one convention everywhere.

A multiply-add is two FLOPs. Training costs three times the forward pass. Embedding lookups are free,
the output projection is a matmul, attention is counted over the full length (causal masking is not
discounted), recomputation is not counted. With eager attention this equals torch's own counter.
"""

from __future__ import annotations

from dataclasses import dataclass

from ligo.families.base import Family
from ligo.families.spec import Dims


@dataclass(frozen=True)
class ModelFlops:
    """FLOPs per token of one model at one sequence length."""

    forward: int

    @property
    def training(self) -> int:
        """Forward and backward: 3x forward."""
        return 3 * self.forward


def model_flops(family: Family, dims: Dims, sequence_length: int) -> ModelFlops:
    """FLOPs per token: 2 per weight of every matrix that is multiplied, plus attention."""
    spaces = family.spaces(dims)
    matrices = [spec for spec in family.tensors(dims) if len(spec.axes) == 2 and not spec.lookup]
    weights = sum(spec.num_elements(spaces) for spec in matrices)
    if dims.tied:  # the table is looked up once and multiplied once
        weights += dims.vocab_size * dims.hidden_size
    return ModelFlops(2 * weights + family.attention_flops(dims, sequence_length))

"""The vocabulary in which a family describes an architecture: sizes, spaces, tensors.

A *space* is a named axis that several tensors share. A tensor stands in one space per axis, and it
either *writes* that space (its output lands there), *reads* it, or is a *gain* on it (norm scale).
Growth needs nothing else: a writer's axis is expanded, a reader's axis is reduced, a gain is copied or
folded into the readers behind it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

RESIDUAL, HEADS, KV_HEADS, FFN, VOCAB = "residual", "heads", "kv_heads", "ffn", "vocab"


@dataclass(frozen=True, kw_only=True)
class Dims:
    """Sizes of one transformer. `head_dim` is coordinates per attention head."""

    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    ffn_size: int
    vocab_size: int
    tied: bool
    """True where the output head is the embedding table itself."""


@dataclass(frozen=True)
class Space:
    """A shared axis of `num_units` units, each of `unit_size` coordinates that always move together."""

    name: str
    num_units: int
    unit_size: int = 1

    @property
    def size(self) -> int:
        """Coordinates in all."""
        return self.num_units * self.unit_size


class Role(Enum):
    """What a tensor does to the space on one of its axes."""

    WRITE = "write"
    READ = "read"
    GAIN = "gain"


@dataclass(frozen=True)
class Axis:
    """One axis of a tensor: the space it stands in and what the tensor does there."""

    space: str
    role: Role


def writes(space: str) -> Axis:
    return Axis(space, Role.WRITE)


def reads(space: str) -> Axis:
    return Axis(space, Role.READ)


def gain(space: str) -> Axis:
    return Axis(space, Role.GAIN)


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One tensor, by its name on disk.

    `kind` is its name without the layer ("self_attn.q_proj"): tensors of one kind share depth
    coefficients. `gain` names the norm scale that stands between the residual stream and this
    reader. `ends_block` marks the tensors that an identity block zeroes. `lookup` marks tables that
    are indexed, not multiplied, and so cost no FLOPs.
    """

    name: str
    axes: tuple[Axis, ...]
    kind: str
    layer: int | None = None
    gain: str | None = None
    ends_block: bool = False
    lookup: bool = False

    def shape(self, spaces: Mapping[str, Space]) -> tuple[int, ...]:
        return tuple(spaces[axis.space].size for axis in self.axes)

    def num_elements(self, spaces: Mapping[str, Space]) -> int:
        return math.prod(self.shape(spaces))

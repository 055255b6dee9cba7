"""The width start of the original LiGO release: [I; M], the rows of M averages of all small units.

M is uniform and normalised so that each row sums to one. Readers use the same matrix transposed, without any
division, and norm scales grow like what they scale. Each target layer has maps of its own for the coordinates of
queries, keys, values and the FFN; the one of the embedding is shared by everything on the residual stream.
Heads and rotary positions are not respected, which is as published. Where key/value heads are grouped,
a case that the original does not have, what the output projection reads has a map of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ligo.core.errors import PlanError
from ligo.families.spec import FFN, HEADS, KV_HEADS, RESIDUAL, Layout, Product, layout_size, layout_spaces
from ligo.operators.axes import layout_keys
from ligo.operators.base import WIDTH_OPERATORS, Reference, Shapes, WidthOperator
from ligo.operators.factors import Dense, Factor
from ligo.operators.maps import SpaceMap

if TYPE_CHECKING:
    from torch import Tensor

_SEED = 2303_00980  # part of the operator: the same shapes give the same maps


@WIDTH_OPERATORS.register("original_rows")
class OriginalRows(WidthOperator):
    """[I; M], tied transposes, each layer its own."""

    reference: ClassVar[Reference] = Reference("LiGO, as released (Wang et al., ICLR 2023)", "2303.00980")
    exact_when: ClassVar[str] = "where no width grows"

    def residual(self, shapes: Shapes) -> SpaceMap:
        return averaging_rows(*shapes.sizes(RESIDUAL), RESIDUAL)

    def space_maps(self, shapes: Shapes) -> dict[str, SpaceMap]:
        maps = super().space_maps(shapes)
        layers = range(shapes.target.dims.num_layers)
        for layout in _inner_layouts(shapes):
            small, target = (
                layout_size(layout, spaces) for spaces in (shapes.small.spaces, shapes.target.spaces)
            )
            if small != target:
                key = next(layout_keys(layout))
                maps |= {
                    f"{key}.{layer}": averaging_rows(small, target, f"{key}.{layer}") for layer in layers
                }
        return maps


@dataclass(frozen=True)
class AveragingRows(Factor):
    """[I; M], drawn when it is needed, so that a plan costs nothing."""

    num_small: int
    num_target: int
    key: str
    label: str = "[I; M]"

    @property
    def shape(self) -> tuple[int, int]:
        return self.num_target, self.num_small

    def matrix(self) -> np.ndarray:
        rng = np.random.default_rng([_SEED, *self.key.encode()])
        rows = rng.uniform(size=(self.num_target - self.num_small, self.num_small))
        return np.concatenate([np.eye(self.num_small), rows / rows.sum(1, keepdims=True)])

    def apply(self, x: Tensor) -> Tensor:
        import torch

        return torch.cat([x, torch.from_numpy(self.matrix()[self.num_small :]).to(x.device, x.dtype) @ x])

    def squared(self) -> Dense:
        return Dense(self.matrix() ** 2)

    def matmul_flops(self, columns: int) -> int:
        return 2 * (self.num_target - self.num_small) * self.num_small * columns


def averaging_rows(num_small: int, num_target: int, key: str) -> SpaceMap:
    """[I; M] with rows of M uniform and summing to one, read transposed."""
    factor = AveragingRows(num_small, num_target, key)
    ones = np.ones(num_target)  # the original's tied head reads what it gets, without a correction
    return SpaceMap(expand=factor, reduce=factor, gain=factor, head_scale=ones, tied=True)


def _inner_layouts(shapes: Shapes) -> Iterator[Layout]:
    """The FFN, and the coordinates of all heads as each tensor of a layer has them.

    Raises:
        PlanError: heads are laid out so that queries, keys and values cannot be told apart as a whole.
    """
    found: dict[str, Layout] = {}
    for spec in shapes.target.tensors:
        for axis in spec.axes:
            for layout in _parts(axis.layout):
                names = set(layout_spaces(layout))
                if layout == FFN:
                    found[FFN] = layout
                elif names & {HEADS, KV_HEADS} and isinstance(layout, Product):
                    if len(names) > 2:
                        raise PlanError(
                            f"operator.width=original_rows has a map each for queries, keys and values, and "
                            f"{spec.name} holds them head by head.\n  Try: operator=ligo operator.init=exact"
                        )
                    found[next(layout_keys(layout))] = layout
    yield from found.values()


def _parts(layout: Layout) -> Iterator[Layout]:
    """A layout, or the parts that stand one after another in it."""
    if isinstance(layout, Product | str | int):
        yield layout
    else:
        for part in layout.parts:
            yield from _parts(part)

"""Maps on the axes of tensors: factors act along a layout, a product of spaces as their Kronecker product.

On an axis laid out as heads x head size the factors act as `heads kron query_dim`, so whole heads move and rotary
positions stay valid; on parts one after another each part has its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ligo.families.spec import Concat, Layout, Product, Space, layout_key, layout_size
from ligo.operators.factors import Dense, Factor, Select, identity

if TYPE_CHECKING:
    from torch import Tensor


PickFactor = Callable[[str], Factor | None]
"""Space, or layout in words -> the factor to apply there; None to leave it as it is."""


def map_axis(
    tensor: Tensor, axis: int, layout: Layout, pick: PickFactor, spaces: Mapping[str, Space]
) -> Tensor:
    """Apply factors to one axis of a tensor.

    Args:
        layout: of the axis.
        spaces: sizes before the factors are applied.
    """
    moved = tensor.movedim(axis, 0)
    grown = _map_layout(moved.reshape(len(moved), -1), layout, pick, spaces)
    return grown.reshape(-1, *moved.shape[1:]).movedim(0, axis)


def project(factor: Factor | None) -> Factor | None:
    """The projection E E^+ onto a factor's span as a factor itself, for `map_axis`."""
    return None if factor is None else _Projection(factor)


def transposed(pick: PickFactor) -> PickFactor:
    """The same factors the other way, from target units to small ones: for `map_axis` on activations that are read."""

    def turned(key: str) -> Factor | None:
        factor = pick(key)
        return None if factor is None else _Transposed(factor)

    return turned


def _map_layout(x: Tensor, layout: Layout, pick: PickFactor, spaces: Mapping[str, Space]) -> Tensor:
    """[n, c] -> [n', c]"""
    import torch

    whole = None if isinstance(layout, int) else pick(layout_key(layout))
    if whole is not None:
        return whole.apply(x)
    if isinstance(layout, int | str):
        return x
    sizes = [layout_size(part, spaces) for part in layout.parts]
    if isinstance(layout, Concat):
        parts = zip(x.split(sizes), layout.parts, strict=True)
        return torch.cat([_map_layout(rows, part, pick, spaces) for rows, part in parts])
    x = x.reshape(*sizes, -1)
    for axis, part in enumerate(layout.parts):
        moved = x.movedim(axis, 0)
        grown = _map_layout(moved.reshape(len(moved), -1), part, pick, spaces)
        x = grown.reshape(-1, *moved.shape[1:]).movedim(0, axis)
    return x.reshape(-1, x.shape[-1])


def layout_selection(layout: Layout, pick: PickFactor, spaces: Mapping[str, Space]) -> Select | None:
    """What `map_axis` does to one axis as one selection, to the bit; None where it does anything else."""
    whole = None if isinstance(layout, int) else pick(layout_key(layout))
    if whole is not None:
        return whole if isinstance(whole, Select) else None
    if isinstance(layout, int | str):
        return identity(layout_size(layout, spaces))
    joined: Select | None = None
    for part in layout.parts:
        other = layout_selection(part, pick, spaces)
        if other is None:
            return None
        joined = other if joined is None else _joined(joined, other, isinstance(layout, Concat))
        if joined is None:
            return None
    return joined


def _joined(one: Select, other: Select, beside: bool) -> Select | None:
    if beside:
        index = np.concatenate([one.index, one.num_small + other.index])
        return Select(index, np.concatenate([one.scale, other.scale]), one.num_small + other.num_small)
    if np.any(one.scale != 1.0) and np.any(other.scale != 1.0):
        return None  # a number times one scale, then the other, is rounded twice
    index = one.index[:, None] * other.num_small + other.index
    scale = one.scale[:, None] * other.scale
    return Select(index.reshape(-1), scale.reshape(-1), one.num_small * other.num_small)


def layout_flops(layout: Layout, columns: int, pick: PickFactor, spaces: Mapping[str, Space]) -> int:
    """FLOPs of `map_axis` on an axis beside which the tensor has `columns` entries."""
    whole = None if isinstance(layout, int) else pick(layout_key(layout))
    if whole is not None:
        return whole.matmul_flops(columns)
    if isinstance(layout, int | str):
        return 0
    if isinstance(layout, Concat):
        return sum(layout_flops(part, columns, pick, spaces) for part in layout.parts)
    total, size = 0, layout_size(layout, spaces)
    for part in layout.parts:
        before = layout_size(part, spaces)
        total += layout_flops(part, columns * size // before, pick, spaces)
        factor = None if isinstance(part, int) else pick(layout_key(part))
        size = size // before * (factor.shape[0] if factor is not None else before)
    return total


def layout_keys(layout: Layout) -> Iterator[str]:
    """Every key under which a map for (a part of) this layout may be found."""
    if not isinstance(layout, int):
        yield layout_key(layout)
    if isinstance(layout, Product | Concat):
        for part in layout.parts:
            yield from layout_keys(part)


def layout_flags(
    layout: Layout, pick: Callable[[str], np.ndarray | None], spaces: Mapping[str, Space]
) -> np.ndarray:
    """[n] bool: places along an axis of which any space flags its unit; `pick` gives flags by space."""
    if isinstance(layout, Concat):
        return np.concatenate([layout_flags(part, pick, spaces) for part in layout.parts])
    if isinstance(layout, Product):
        flags = np.zeros(1, dtype=bool)
        for part in layout.parts:
            flags = (flags[:, None] | layout_flags(part, pick, spaces)[None, :]).reshape(-1)
        return flags
    flagged = None if isinstance(layout, int) else pick(layout)
    return np.zeros(layout_size(layout, spaces), dtype=bool) if flagged is None else flagged


@dataclass(frozen=True)
class _Projection(Factor):
    factor: Factor
    label: str = "projection"

    @property
    def shape(self) -> tuple[int, int]:
        return self.factor.shape[0], self.factor.shape[0]

    def matrix(self) -> np.ndarray:
        expand = self.factor.matrix()
        return expand @ np.linalg.pinv(expand)  # type: ignore[no-any-return]

    def apply(self, x: Tensor) -> Tensor:
        return self.factor.project(x)

    def squared(self) -> Factor:
        return Dense(self.matrix() ** 2)


@dataclass(frozen=True)
class _Transposed(Factor):
    factor: Factor
    label: str = "transposed"

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.factor.shape
        return columns, rows

    def matrix(self) -> np.ndarray:
        return self.factor.matrix().T

    def apply(self, x: Tensor) -> Tensor:
        return self.factor.apply_transposed(x)

    def squared(self) -> Factor:
        return _Transposed(self.factor.squared())

    def matmul_flops(self, columns: int) -> int:
        return self.factor.matmul_flops(columns)

"""Space maps and layer maps: what an operator decides, and how it is applied to a tensor.

    W'[l] = sum_j  depth[l, j] * ( expand_out @ W[j] @ reduce_in )

A *factor* is an n' x n matrix over the units of a space (n small units, n' target units); for spaces
with several coordinates per unit, such as heads, it stands for `factor kron I_unit`, so that whole heads
move and rotary positions stay valid. The same functions run when an operator is learned (with
autograd) and when the grown checkpoint is written, so what was learned is what is written.

Shapes: n, n' units; u coordinates per unit. Descriptions are NumPy, so that a plan needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from einops import rearrange

if TYPE_CHECKING:
    from torch import Tensor


class Factor(Protocol):
    """An n' x n matrix over units."""

    @property
    def shape(self) -> tuple[int, int]: ...

    def matrix(self) -> np.ndarray:
        """Dense float64 [n', n]."""
        ...

    def apply(self, x: Tensor) -> Tensor:
        """[n, c] -> [n', c]."""
        ...

    def remove_span(self, x: Tensor) -> Tensor:
        """[n', c] -> [n', c]: the part that no combination of the matrix's columns has, (I - E E^+) x."""
        ...

    def matmul_flops(self, columns: int) -> int:
        """FLOPs of `apply` on [n, columns]; copies cost none."""
        ...

    def describe(self) -> str: ...


@dataclass(frozen=True)
class Select:
    """Each target unit is one small unit times a number: row i is scale[i] * e_index[i]."""

    index: np.ndarray  # [n'] int64
    scale: np.ndarray  # [n'] float64
    num_small: int
    label: str = "copy"

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.index), self.num_small

    def matrix(self) -> np.ndarray:
        dense = np.zeros(self.shape)
        dense[np.arange(len(self.index)), self.index] = self.scale
        return dense

    def apply(self, x: Tensor) -> Tensor:
        import torch

        grown = x.index_select(0, torch.as_tensor(self.index, device=x.device))
        if np.all(self.scale == 1.0):
            return grown
        return grown * torch.as_tensor(self.scale, device=x.device).to(x.dtype)[:, None]

    def remove_span(self, x: Tensor) -> Tensor:
        import torch

        # columns do not overlap, so E^+ is a weighted mean over the copies of each unit
        index = torch.as_tensor(self.index, device=x.device)
        scale = torch.as_tensor(self.scale, device=x.device).to(x.dtype)[:, None]
        squares = torch.zeros(self.num_small, 1, dtype=x.dtype, device=x.device).index_add(0, index, scale**2)
        sums = torch.zeros(self.num_small, x.shape[1], dtype=x.dtype, device=x.device).index_add(
            0, index, scale * x
        )
        return x - scale * (sums / squares).index_select(0, index)

    def matmul_flops(self, columns: int) -> int:
        return 0

    def describe(self) -> str:
        return self.label


@dataclass(frozen=True)
class Dense:
    """Any matrix [n', n]: a NumPy array, or a torch tensor while it is being learned."""

    values: Any
    label: str = "dense"

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.values.shape
        return int(rows), int(columns)

    def matrix(self) -> np.ndarray:
        values = self.values
        return np.asarray(
            values if isinstance(values, np.ndarray) else values.detach().cpu(), dtype=np.float64
        )

    def apply(self, x: Tensor) -> Tensor:
        import torch

        return torch.as_tensor(self.values, device=x.device).to(x.dtype) @ x

    def remove_span(self, x: Tensor) -> Tensor:
        basis = self._basis.to(x.device, x.dtype)
        return x - basis @ (basis.T @ x)

    @cached_property
    def _basis(self) -> Tensor:
        """Orthonormal columns that span those of the matrix: float64 [n', n]."""
        import torch

        values = torch.as_tensor(self.values).detach().double()
        return torch.linalg.qr(values).Q  # type: ignore[no-any-return]

    def matmul_flops(self, columns: int) -> int:
        return 2 * self.shape[0] * self.shape[1] * columns

    def describe(self) -> str:
        return self.label


def copies_per_unit(index: np.ndarray, num_small: int) -> np.ndarray:
    """How many target units copy each small unit: [n] int64."""
    return np.bincount(index, minlength=num_small)


def identity(size: int) -> Select:
    """Leave a space as it is."""
    return Select(np.arange(size), np.ones(size), size, label="as it is")


@dataclass(frozen=True)
class SpaceMap:
    """What an operator decides for one space.

    `expand` is applied by every tensor that writes the space; `reduce` holds the *transposed* reading
    map, n' x n like `expand`, and is applied by every tensor that reads it. `gain` copies norm scales
    (None: they cannot be copied under this map, so each is folded into its readers and becomes one).
    `tied_gain` is used for the last norm when the head is the embedding table, which reads with `expand`
    instead of `reduce`: it makes up for the difference.
    """

    expand: Factor
    reduce: Factor
    unit_size: int = 1
    gain: Factor | None = None
    tied_gain: Factor | None = None

    @property
    def grows(self) -> bool:
        rows, columns = self.expand.shape
        return rows != columns

    def is_identity(self) -> bool:
        """True where nothing is to be done: every unit stays as and where it is."""
        rows, columns = self.expand.shape
        return rows == columns and all(
            isinstance(f, Select) and np.all(f.scale == 1.0) and np.array_equal(f.index, np.arange(columns))
            for f in (self.expand, self.reduce)
        )


def on_axis(function: Callable[[Tensor], Tensor], tensor: Tensor, axis: int, unit_size: int = 1) -> Tensor:
    """Apply a function of [units, c] to one axis of a tensor: [..., n * u, ...] -> [..., n' * u, ...]."""
    moved = tensor.movedim(axis, 0)
    rest = moved.shape[1:]
    units = rearrange(moved, "(n u) ... -> n (u ...)", u=unit_size)
    grown = rearrange(function(units), "n (u c) -> (n u) c", u=unit_size)
    return grown.reshape(-1, *rest).movedim(0, axis)


@dataclass(frozen=True)
class LayerMap:
    """Which small layers make each target layer.

    `weights` is [L', L], one row per target layer. `identity_layers` start as identity blocks: the
    tensors that end a block there are zero. `learned` holds coefficients [L', L] per tensor kind, as
    torch tensors, once they have been learned; they then replace both.
    """

    weights: np.ndarray
    identity_layers: frozenset[int] = frozenset()
    learned: Mapping[str, Any] = field(default_factory=dict)

    def coefficients(self, kind: str, ends_block: bool) -> Any:
        """[L', L] for one kind of tensor."""
        if kind in self.learned:
            return self.learned[kind]
        if not (ends_block and self.identity_layers):
            return self.weights
        zeroed = self.weights.copy()
        zeroed[sorted(self.identity_layers)] = 0.0
        return zeroed

    def describe(self) -> str:
        """One line: '0 1 2 | 0* 1* 2*', a star for identity blocks, several sources joined by '+'."""
        cells = []
        for layer, row in enumerate(self.weights):
            sources = "+".join(str(j) for j in np.flatnonzero(row))
            cells.append(sources + ("*" if layer in self.identity_layers else ""))
        return " ".join(cells)


def one_hot(sources: np.ndarray, num_small: int) -> np.ndarray:
    """Source layer per target layer -> depth weights [L', L]."""
    return np.eye(num_small)[sources]


@dataclass(frozen=True)
class GrowthMaps:
    """Everything an operator decided: one map per space, one for the layers."""

    spaces: Mapping[str, SpaceMap]
    layers: LayerMap

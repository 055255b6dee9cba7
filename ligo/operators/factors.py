"""Factors: n' x n matrices over the units of a space (n small units, n' target units), and how they are applied.

Most are sparse: a selection copies units. What is dense is so because it was learned, or drawn. c: columns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


class Factor(ABC):
    """An n' x n matrix over units."""

    label: str

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]: ...

    @abstractmethod
    def matrix(self) -> np.ndarray:
        """Dense float64 [n', n]."""

    def tensor(self) -> Tensor:
        """The same for torch, without gradients; of shapes alone where the entries are."""
        import torch

        return torch.from_numpy(self.matrix())

    @abstractmethod
    def apply(self, x: Tensor) -> Tensor:
        """[n, c] -> [n', c]"""

    def apply_transposed(self, x: Tensor) -> Tensor:
        """[n', c] -> [n, c]"""
        import torch

        return torch.from_numpy(self.matrix().T).to(x.device, x.dtype) @ x

    def project(self, x: Tensor) -> Tensor:
        """[n', c] -> [n', c]: the part of x that combinations of the matrix's columns make, E E^+ x."""
        basis = self._basis.to(x.device, x.dtype)
        return basis @ (basis.T @ x)

    @cached_property
    def _basis(self) -> Tensor:
        """Orthonormal columns that span those of the matrix: float64 [n', n]."""
        import torch

        return torch.linalg.qr(self.tensor()).Q  # type: ignore[no-any-return]

    @abstractmethod
    def squared(self) -> Factor:
        """Every entry squared: how second moments grow."""

    def first_copies(self) -> np.ndarray:
        """Where each small unit is found first: [n] int64. The units elsewhere are new."""
        return np.arange(self.shape[1])

    def matmul_flops(self, columns: int) -> int:
        """FLOPs of `apply` on [n, columns]; copies and means cost none."""
        return 0

    def is_identity(self) -> bool:
        return False

    @property
    def is_learned(self) -> bool:
        """Whether it has entries with gradients."""
        return False

    def describe(self) -> str:
        return self.label


@dataclass(frozen=True)
class Select(Factor):
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

    def apply_transposed(self, x: Tensor) -> Tensor:
        import torch

        index = torch.as_tensor(self.index, device=x.device)
        scale = torch.as_tensor(self.scale, device=x.device).to(x.dtype)[:, None]
        if self.in_order:
            return scale * x
        return x.new_zeros(self.num_small, x.shape[1]).index_add(0, index, scale * x)

    def project(self, x: Tensor) -> Tensor:
        import torch

        # columns do not overlap, so E^+ is a weighted mean over the copies of each unit
        index = torch.as_tensor(self.index, device=x.device)
        scale = torch.as_tensor(self.scale, device=x.device).to(x.dtype)[:, None]
        squares = torch.zeros(self.num_small, 1, dtype=x.dtype, device=x.device).index_add(0, index, scale**2)
        sums = torch.zeros(self.num_small, x.shape[1], dtype=x.dtype, device=x.device).index_add(
            0, index, scale * x
        )
        return scale * (sums / squares).index_select(0, index)

    @cached_property
    def in_order(self) -> bool:
        """Whether every unit is there once, in its place."""
        return np.array_equal(self.index, np.arange(self.num_small))

    def squared(self) -> Select:
        return replace(self, scale=self.scale**2)

    def first_copies(self) -> np.ndarray:
        here = np.flatnonzero(self.scale)
        return here[np.unique(self.index[here], return_index=True)[1]]

    def is_identity(self) -> bool:
        rows, columns = self.shape
        return rows == columns and bool(
            np.all(self.scale == 1.0) and np.array_equal(self.index, np.arange(columns))
        )

    def scaled(self, by: float | np.ndarray, label: str | None = None) -> Select:
        """The same selection with its rows multiplied by a number, or by one number each."""
        return replace(self, scale=self.scale * by, label=label or self.label)


@dataclass(frozen=True)
class CopiesThenMean(Factor):
    """The first rows copy small units, all others are the mean of all small units; everything times `scale`."""

    index: np.ndarray  # of the copies, int64
    num_small: int
    num_target: int
    scale: float = 1.0
    label: str = "copy, then mean"

    @property
    def shape(self) -> tuple[int, int]:
        return self.num_target, self.num_small

    def matrix(self) -> np.ndarray:
        dense = np.full(self.shape, self.scale / self.num_small)
        dense[: len(self.index)] = 0.0
        dense[np.arange(len(self.index)), self.index] = self.scale
        return dense

    def apply(self, x: Tensor) -> Tensor:
        import torch

        copies = x.index_select(0, torch.as_tensor(self.index, device=x.device))
        means = x.mean(0, keepdim=True).expand(self.num_target - len(self.index), -1)
        grown = torch.cat([copies, means])
        return grown if self.scale == 1.0 else grown * self.scale

    def copies(self) -> Select:
        """The rows that copy; the others zero."""
        rest = (0, self.num_target - len(self.index))
        scale = np.pad(np.full(len(self.index), self.scale), rest)
        return Select(np.pad(self.index, rest), scale, self.num_small)

    def squared(self) -> Dense:
        return Dense(self.matrix() ** 2)


@dataclass(frozen=True)
class Dense(Factor):
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

    def tensor(self) -> Tensor:
        import torch

        return torch.as_tensor(self.values).detach().cpu().double()

    def apply(self, x: Tensor) -> Tensor:
        import torch

        return torch.as_tensor(self.values, device=x.device).to(x.dtype) @ x

    def apply_transposed(self, x: Tensor) -> Tensor:
        import torch

        return torch.as_tensor(self.values, device=x.device).to(x.dtype).T @ x

    @property
    def is_learned(self) -> bool:
        return bool(getattr(self.values, "requires_grad", False))

    def squared(self) -> Dense:
        return Dense(self.values**2)

    def scaled(self, by: float) -> Dense:
        return Dense(self.values * by, self.label)

    def matmul_flops(self, columns: int) -> int:
        return 2 * self.shape[0] * self.shape[1] * columns


@dataclass(frozen=True)
class CopiesThenRows(Factor):
    """The first rows copy small units, all others are torch rows of any kind: [I; M] while M is being learned.

    Only M is multiplied with, which for n' = 1.5 n is a third of the dense product.
    """

    copies: Select  # [m, n]
    rows: Any  # [n' - m, n]
    label: str = "copies, then rows"

    @property
    def shape(self) -> tuple[int, int]:
        above, columns = self.copies.shape
        return above + int(self.rows.shape[0]), columns

    @property
    def values(self) -> Tensor:
        """All of it, with gradients."""
        import torch

        return torch.cat([torch.from_numpy(self.copies.matrix()).to(self.rows), self.rows])

    def matrix(self) -> np.ndarray:
        return np.concatenate([self.copies.matrix(), np.asarray(self.rows.detach().cpu(), dtype=np.float64)])

    def tensor(self) -> Tensor:
        return self.values.detach().cpu().double()

    def apply(self, x: Tensor) -> Tensor:
        import torch

        return torch.cat([self.copies.apply(x), self.rows.to(x.device, x.dtype) @ x])

    def apply_transposed(self, x: Tensor) -> Tensor:
        copied, others = x.split([self.copies.shape[0], self.rows.shape[0]])
        return self.copies.apply_transposed(copied) + self.rows.to(x.device, x.dtype).T @ others

    @property
    def is_learned(self) -> bool:
        return bool(self.rows.requires_grad)

    def squared(self) -> CopiesThenRows:
        return CopiesThenRows(self.copies.squared(), self.rows**2)

    def scaled(self, by: float) -> CopiesThenRows:
        return CopiesThenRows(self.copies.scaled(by), self.rows * by, self.label)

    def matmul_flops(self, columns: int) -> int:
        return 2 * self.rows.shape[0] * self.rows.shape[1] * columns


def copies_per_unit(index: np.ndarray, num_small: int) -> np.ndarray:
    """How many target units copy each small unit: [n] int64."""
    return np.bincount(index, minlength=num_small)


def runs(index: np.ndarray) -> list[tuple[int, int, int]]:
    """(start, stop, first value) of the stretches in which an index goes up by one."""
    if not len(index):
        return []
    breaks = np.flatnonzero(np.diff(index) != 1) + 1
    starts, stops = [0, *breaks.tolist()], [*breaks.tolist(), len(index)]
    return [(start, stop, int(index[start])) for start, stop in zip(starts, stops, strict=True)]


def nothing(num_small: int, num_target: int) -> Select:
    """Every target unit is zero."""
    return Select(np.zeros(num_target, dtype=np.int64), np.zeros(num_target), num_small, label="zero")


def identity(size: int) -> Select:
    """Leave a space as it is."""
    return Select(np.arange(size), np.ones(size), size, label="as it is")

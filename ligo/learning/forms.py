"""What of a map is learned: a matrix that is zero at first, in few or many parameters.

Every form is a module that gives the n' x n difference from the start.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

_VERA_INIT = 0.1  # of the vector d, as in the paper


class DenseDelta(nn.Module):
    """All n' x n entries."""

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(shape))

    def forward(self) -> Tensor:
        return self.values


class NewRowsDelta(nn.Module):
    """The rows of new units only, [I; M]: the form of the original release (Wang et al., ICLR 2023)."""

    rows: Tensor

    def __init__(self, shape: tuple[int, int], new_units: np.ndarray) -> None:
        super().__init__()
        self._num_rows = shape[0]
        self.register_buffer("rows", torch.from_numpy(np.flatnonzero(new_units)), persistent=False)
        self.values = nn.Parameter(torch.zeros(len(self.rows), shape[1]))

    def forward(self) -> Tensor:
        zeros = self.values.new_zeros(self._num_rows, self.values.shape[1])
        return zeros.index_add(0, self.rows, self.values)


class LowRankDelta(nn.Module):
    """U V of rank r, U zero at first (LoRA's form: Hu et al. 2021, arXiv 2106.09685)."""

    def __init__(self, shape: tuple[int, int], rank: int, generator: torch.Generator) -> None:
        super().__init__()
        rank = min(rank, *shape)
        self.u = nn.Parameter(torch.zeros(shape[0], rank))
        self.v = nn.Parameter(torch.randn(rank, shape[1], generator=generator) / shape[1] ** 0.5)

    def forward(self) -> Tensor:
        return self.u @ self.v


class VeraDelta(nn.Module):
    """diag(b) B diag(d) A with random frozen A and B, b zero at first (VeRA: Kopiczko et al., ICLR 2024)."""

    basis_a: Tensor
    basis_b: Tensor

    def __init__(self, shape: tuple[int, int], rank: int, generator: torch.Generator) -> None:
        super().__init__()
        rank = min(rank, *shape)
        self.register_buffer(
            "basis_a", torch.randn(rank, shape[1], generator=generator) / shape[1] ** 0.5, persistent=False
        )
        self.register_buffer(
            "basis_b", torch.randn(shape[0], rank, generator=generator) / rank**0.5, persistent=False
        )
        self.b, self.d = nn.Parameter(torch.zeros(shape[0])), nn.Parameter(torch.full((rank,), _VERA_INIT))

    def forward(self) -> Tensor:
        delta: Tensor = self.b[:, None] * (self.basis_b @ (self.d[:, None] * self.basis_a))
        return delta


def make_delta(form: str, rank: int, key: str) -> Callable[[tuple[int, int], np.ndarray], nn.Module]:
    """The form that `operator.form` names, for one map; random bases follow from the map's key."""
    generator = torch.Generator().manual_seed(int.from_bytes(key.encode()[-6:], "little"))

    def make(shape: tuple[int, int], new_units: np.ndarray) -> nn.Module:
        if form == "dense":
            return DenseDelta(shape)
        if form == "new_rows":
            return NewRowsDelta(shape, new_units)
        return (LowRankDelta if form == "low_rank" else VeraDelta)(shape, rank, generator)

    return make

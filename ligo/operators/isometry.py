"""Isometry: the residual stream is turned into the larger space by a random orthonormal matrix.

R = sqrt(D'/D) Q with Q^T Q = I, so R^T R = (D'/D) I: RMSNorm sees the same mean square, and no two coordinates
are copies. Q takes the constant vector to the constant vector, so LayerNorm sees the same mean and variance too. R
mixes coordinates, so the gains of the norms are folded into their readers (and shifts divided by them), and a tied
head, which would need a gain of its own per small coordinate, is untied.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ligo.families.spec import RESIDUAL
from ligo.operators.base import WIDTH_OPERATORS, Reference, Shapes, WidthOperator
from ligo.operators.factors import Dense, Factor
from ligo.operators.maps import EVERY_NORM, SpaceMap

if TYPE_CHECKING:
    from torch import Tensor

_SEED = 2401_15024  # part of the operator: the same shapes give the same maps


@WIDTH_OPERATORS.register("isometry")
class Isometry(WidthOperator):
    """A random orthonormal residual map; heads and FFN are copied."""

    reference: ClassVar[Reference] = Reference(
        "orthogonal invariance of RMSNorm models: SliceGPT (Ashkboos et al., ICLR 2024)", "2401.15024"
    )
    exact_when: ClassVar[str] = (
        "at every ratio, where every norm stands before a reader; other models are refused"
    )
    mixes_coordinates: ClassVar[bool] = True

    def residual(self, shapes: Shapes) -> SpaceMap:
        small, target = shapes.sizes(RESIDUAL)
        ratio = target / small
        return SpaceMap(
            expand=Isometric(small, target, np.sqrt(ratio)),
            reduce=Isometric(small, target, np.sqrt(ratio) / ratio),
            fold_gains=True,
            keeps=EVERY_NORM,
            faithful=True,
        )


@dataclass(frozen=True)
class Isometric(Factor):
    """scale * Q with random orthonormal columns; drawn when first needed, so that a plan costs nothing."""

    num_small: int
    num_target: int
    scale: float
    label: str = "orthonormal"

    @property
    def shape(self) -> tuple[int, int]:
        return self.num_target, self.num_small

    def matrix(self) -> np.ndarray:
        return self.scale * orthonormal(self.num_small, self.num_target)

    def apply(self, x: Tensor) -> Tensor:
        return self._basis.to(x.device, x.dtype) @ x * self.scale

    @cached_property
    def _basis(self) -> Tensor:
        import torch

        return torch.from_numpy(orthonormal(self.num_small, self.num_target))

    def squared(self) -> Dense:
        return Dense(self.matrix() ** 2)

    def matmul_flops(self, columns: int) -> int:
        return 2 * self.num_target * self.num_small * columns


@lru_cache(maxsize=2)
def orthonormal(num_small: int, num_target: int) -> np.ndarray:
    """A random matrix with orthonormal columns that takes the constant vector to the constant vector: float64 [n', n].

    In bases whose first vector is the constant one, it is the identity there and random beside it.
    """
    drawn = np.random.default_rng([_SEED, num_small, num_target]).standard_normal(
        (num_target - 1, num_small - 1)
    )
    basis, upper = np.linalg.qr(drawn)
    beside = np.zeros((num_target, num_small))
    beside[0, 0], beside[1:, 1:] = 1.0, basis * np.sign(np.diag(upper))  # signs fixed: uniform
    return _reflected(_reflected(beside).T).T


def _reflected(rows: np.ndarray) -> np.ndarray:
    """Rows [n, c] under the reflection that swaps the first unit vector and the constant vector."""
    size = len(rows)
    normal = np.eye(size)[0] - np.full(size, size**-0.5)
    length = normal @ normal
    return rows if length == 0 else rows - np.outer(normal, 2 / length * (normal @ rows))

"""Isometry: the residual stream is turned into the larger space by a random orthonormal matrix.

R = sqrt(D'/D) Q with Q^T Q = I, so R^T R = (D'/D) I: RMSNorm sees the same mean square, and no two coordinates
are copies. R mixes coordinates, so the gains of the norms are folded into their readers, and a tied head,
which would need a gain of its own per small coordinate, is untied.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ligo.families.spec import RESIDUAL, Norm
from ligo.operators.base import WIDTH_OPERATORS, Reference, Shapes, WidthOperator
from ligo.operators.maps import Dense, SpaceMap

_SEED = 2404_0  # part of the operator: the same shapes give the same maps


@WIDTH_OPERATORS.register("isometry")
class Isometry(WidthOperator):
    """Random orthonormal residual map; heads and FFN are copied."""

    reference: ClassVar[Reference] = Reference("orthogonal invariance of RMSNorm models: SliceGPT (Ashkboos et al., ICLR 2024)", "2401.15024")
    exact_when: ClassVar[str] = "always, where norms stand before their readers and have no shift; others are refused"
    mixes_coordinates: ClassVar[bool] = True

    def residual(self, shapes: Shapes) -> SpaceMap:
        small, target = shapes.sizes(RESIDUAL)
        expand = np.sqrt(target / small) * orthonormal(small, target)
        return SpaceMap(
            expand=Dense(expand, "orthonormal"),
            reduce=Dense(expand * (small / target), "orthonormal"),
            fold_gains=True,
            keeps=frozenset({Norm.RMS}),
            faithful=True,
        )


def orthonormal(num_small: int, num_target: int) -> np.ndarray:
    """A random matrix with orthonormal columns: float64 [n', n]."""
    drawn = np.random.default_rng([_SEED, num_small, num_target]).standard_normal((num_target, num_small))
    basis, upper = np.linalg.qr(drawn)
    return np.asarray(basis * np.sign(np.diag(upper)))  # signs fixed: uniform, and the same everywhere

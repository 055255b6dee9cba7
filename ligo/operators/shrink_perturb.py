"""Shrink and perturb: the small weights, shrunk, in one corner, and fresh random weights over everything.

W' = shrink * pad(W) + Z, Z at the target's fresh-init deviation. Norms keep their scales.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from ligo.families.spec import RESIDUAL
from ligo.operators.base import WIDTH_OPERATORS, Reference, Shapes
from ligo.operators.maps import Fill, SpaceMap
from ligo.operators.pad import Pad, padded_residual

SHRINK = (
    0.4  # a choice of ours, not a published one; shrinking itself is of Ash & Adams 2020 (arXiv 1910.08475)
)


@WIDTH_OPERATORS.register("shrink_perturb")
class ShrinkPerturb(Pad):
    """Shrunk weights, zero-padded, plus a fresh initialisation; never exact."""

    reference: ClassVar[Reference] = Reference(
        "warm-starting by shrinking, padding and perturbing (Mallik et al. 2026)", "2605.13405"
    )
    exact_when: ClassVar[str] = "never"

    def residual(self, shapes: Shapes) -> SpaceMap:
        return padded_residual(*shapes.sizes(RESIDUAL), scale=1.0)

    def space_maps(self, shapes: Shapes) -> dict[str, SpaceMap]:
        return {name: replace(m, fresh=None) for name, m in super().space_maps(shapes).items()}

    def fill(self, shapes: Shapes) -> Fill | None:
        return Fill(deviation=1.0, only_new=False, shrink=SHRINK)

"""Scaled duplication: copy units of every space so that the function stays the same at every ratio.

The residual stream is copied with weights that keep the statistics of its norm (`copying.residual_copies`).
Heads and FFN units are copied as they are, and whoever reads a unit with n copies reads each with weight
1/n (Net2Net, Chen et al. 2015, arXiv 1511.05641).
"""

from __future__ import annotations

from typing import ClassVar

from ligo.families.spec import RESIDUAL
from ligo.operators.base import WIDTH_OPERATORS, Reference, Shapes, WidthOperator
from ligo.operators.copying import residual_copies
from ligo.operators.maps import SpaceMap


@WIDTH_OPERATORS.register("scaled_duplication")
class ScaledDuplication(WidthOperator):
    """Copies of everything, at every ratio."""

    reference: ClassVar[Reference] = Reference(
        "Net2Net, with norm statistics kept at every ratio", "1511.05641"
    )
    exact_when: ClassVar[str] = (
        "at every ratio (experts: whole ones); after-norm models (BERT): at whole ratios"
    )

    def residual(self, shapes: Shapes) -> SpaceMap:
        return residual_copies(shapes.small.spaces[RESIDUAL], shapes.target.dims.hidden_size)

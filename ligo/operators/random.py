"""Direct copy: the small weights in one corner of the large matrices, fresh random weights everywhere else.

The plainest way to use a small checkpoint, and the weakest arm of bert2BERT's comparison: a control.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from ligo.families.spec import RESIDUAL
from ligo.operators.base import WIDTH_OPERATORS, Reference, Shapes
from ligo.operators.maps import Fill, SpaceMap
from ligo.operators.pad import Pad, padded_residual


@WIDTH_OPERATORS.register("random")
class Random(Pad):
    """Old units in place; whatever touches a new unit is drawn at the target's fresh-init deviation."""

    reference: ClassVar[Reference] = Reference("bert2BERT's DirectCopy (Chen et al., ACL 2022)", "2110.07143")
    exact_when: ClassVar[str] = "where no width grows"

    def residual(self, shapes: Shapes) -> SpaceMap:
        return padded_residual(*shapes.sizes(RESIDUAL), scale=1.0)

    def space_maps(self, shapes: Shapes) -> dict[str, SpaceMap]:
        # the fill is all there is in new places: no noise of its own goes there
        return {name: replace(m, fresh=None) for name, m in super().space_maps(shapes).items()}

    def fill(self, shapes: Shapes) -> Fill | None:
        return Fill(deviation=1.0, only_new=True)

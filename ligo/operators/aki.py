"""Advanced knowledge initialisation: new output units come from the layer above.

Old output units are the layer's own; new ones copy the same units of the next small layer, which breaks the
symmetry of copies and, in the paper's experiments, ends better than copies of the layer itself. Inputs are
read as in Net2Net; embeddings, norms and the last layer copy their own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np

from ligo.operators.base import WIDTH_OPERATORS, Reference, Shapes
from ligo.operators.factors import Select
from ligo.operators.maps import SpaceMap
from ligo.operators.net2net import Net2Net


@WIDTH_OPERATORS.register("aki")
class Aki(Net2Net):
    """Net2Net whose new units come from the layer above."""

    reference: ClassVar[Reference] = Reference("bert2BERT's AKI (Chen et al., ACL 2022)", "2110.07143")
    exact_when: ClassVar[str] = "where no width grows"

    def space_maps(self, shapes: Shapes) -> dict[str, SpaceMap]:
        return {name: _from_above(space_map) for name, space_map in super().space_maps(shapes).items()}


def _from_above(space_map: SpaceMap) -> SpaceMap:
    expand = space_map.expand
    if not (space_map.grows and isinstance(expand, Select)) or np.any(expand.scale == 0):
        return space_map  # nothing is copied here: head sizes and vocabularies have no unit above
    own = np.zeros(len(expand.index))
    own[np.unique(expand.index, return_index=True)[1]] = 1.0  # the first copy of each unit
    return replace(space_map, split=(expand.scaled(own), expand.scaled(1.0 - own)), faithful=False)

"""Identity blocks: the small layers evenly spread, and between them copies that add zero."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ligo.operators.base import DEPTH_OPERATORS, DepthOperator, Reference
from ligo.operators.maps import LayerMap, one_hot


@DEPTH_OPERATORS.register("zero_block")
class ZeroBlock(DepthOperator):
    """Spread the small layers evenly and insert identity blocks: copies that end in zero."""

    reference: ClassVar[Reference] = Reference(
        "LLaMA Pro: progressive LLaMA with block expansion", "2401.02415"
    )
    exact_when: ClassVar[str] = "always; not in after-norm models (BERT)"

    def layer_map(self, num_small: int, num_target: int) -> LayerMap:
        # runs of one small layer each, the longer ones late in every group, as LLaMA Pro inserts after every fourth
        sources = -(-np.arange(1, num_target + 1) * num_small // num_target) - 1
        inserted = frozenset(layer for layer in range(1, num_target) if sources[layer] == sources[layer - 1])
        return LayerMap(one_hot(sources, num_small), inserted)

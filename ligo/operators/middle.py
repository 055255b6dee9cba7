"""Middle stacking: the middle block of layers repeated in place."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ligo.operators.base import DEPTH_OPERATORS, DepthOperator, Reference
from ligo.operators.maps import LayerMap, one_hot


@DEPTH_OPERATORS.register("middle")
class Middle(DepthOperator):
    """Repeat the middle block, half of the small layers, in place until there are enough layers."""

    reference: ClassVar[Reference] = Reference("MIDAS (Saunshi et al., NeurIPS 2024)", "2409.19044")
    exact_when: ClassVar[str] = "where the depth does not grow"

    def layer_map(self, num_small: int, num_target: int) -> LayerMap:
        sources = list(range(num_small))
        while len(sources) < num_target:
            block = min(num_target - len(sources), max(1, num_small // 2))
            end = (len(sources) + block) // 2
            sources[end:end] = sources[end - block : end]
        return LayerMap(one_hot(np.asarray(sources), num_small))

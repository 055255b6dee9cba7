"""The depth start of the original LiGO release: stacked layers, with a little of every other layer."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ligo.operators.base import DEPTH_OPERATORS, DepthOperator, Reference
from ligo.operators.maps import LayerMap, one_hot

_SEED = 2303_00980
_NOISE = 0.03  # upper end of the uniform noise, as released


@DEPTH_OPERATORS.register("noisy_stack")
class NoisyStack(DepthOperator):
    """One-hot on l mod L, plus uniform noise, rows normalised to sum one."""

    reference: ClassVar[Reference] = Reference("LiGO, as released (Wang et al., ICLR 2023)", "2303.00980")
    exact_when: ClassVar[str] = "where the depth does not grow"

    def layer_map(self, num_small: int, num_target: int) -> LayerMap:
        stacked = one_hot(np.arange(num_target) % num_small, num_small)
        if num_small == num_target:
            return LayerMap(stacked)
        rng = np.random.default_rng([_SEED, num_small, num_target])
        noisy = stacked + rng.uniform(0, _NOISE, stacked.shape)
        return LayerMap(noisy / noisy.sum(1, keepdims=True))

"""Depth operators: which small layers make each target layer."""

from __future__ import annotations

import numpy as np

from ligo.core.errors import PlanError
from ligo.operators.base import DEPTH_OPERATORS, Exactness, Reference
from ligo.operators.maps import LayerMap


def _one_hot(sources: np.ndarray, num_small: int) -> np.ndarray:
    """Source layer per target layer -> [L', L]."""
    return np.eye(num_small)[sources]


def _not_exact(num_small: int, num_target: int) -> Exactness:
    if num_small == num_target:
        return Exactness(True, "depth: unchanged")
    return Exactness(False, "depth: copied layers are applied twice")


@DEPTH_OPERATORS.register("zero_block")
class ZeroBlock:
    """Spread the small layers evenly and insert identity blocks: copies that end in zero."""

    reference = Reference("LLaMA Pro: progressive LLaMA with block expansion", "2401.02415")

    def layer_map(self, num_small: int, num_target: int) -> LayerMap:
        # target layer l belongs to small layer floor(l L / L'); the first of each run is the layer itself
        sources = np.arange(num_target) * num_small // num_target
        inserted = frozenset(layer for layer in range(1, num_target) if sources[layer] == sources[layer - 1])
        return LayerMap(_one_hot(sources, num_small), inserted)

    def exactness(self, num_small: int, num_target: int) -> Exactness:
        inserted = num_target - num_small
        return Exactness(
            True, f"depth: {inserted} inserted layers add zero" if inserted else "depth: unchanged"
        )


@DEPTH_OPERATORS.register("stack")
class Stack:
    """Repeat the whole stack: layer l copies small layer l mod L."""

    reference = Reference("StackBERT (Gong et al., ICML 2019); Stacking your transformers", "2405.15319")

    def layer_map(self, num_small: int, num_target: int) -> LayerMap:
        return LayerMap(_one_hot(np.arange(num_target) % num_small, num_small))

    def exactness(self, num_small: int, num_target: int) -> Exactness:
        return _not_exact(num_small, num_target)


@DEPTH_OPERATORS.register("interpolate")
class Interpolate:
    """Repeat each layer in place: layer l copies small layer floor(l L / L')."""

    reference = Reference("Multi-level residual networks (Chang et al., ICLR 2018)", "1710.10348")

    def layer_map(self, num_small: int, num_target: int) -> LayerMap:
        return LayerMap(_one_hot(np.arange(num_target) * num_small // num_target, num_small))

    def exactness(self, num_small: int, num_target: int) -> Exactness:
        return _not_exact(num_small, num_target)


@DEPTH_OPERATORS.register("middle")
class Middle:
    """Repeat the middle block in place, until there are enough layers."""

    reference = Reference("MIDAS (Saunshi et al., NeurIPS 2024)", "2409.19044")

    def layer_map(self, num_small: int, num_target: int) -> LayerMap:
        sources = list(range(num_small))
        while len(sources) < num_target:
            block = min(num_target - len(sources), len(sources))
            end = (len(sources) + block) // 2
            sources[end:end] = sources[end - block : end]
        return LayerMap(_one_hot(np.asarray(sources), num_small))

    def exactness(self, num_small: int, num_target: int) -> Exactness:
        return _not_exact(num_small, num_target)


@DEPTH_OPERATORS.register("solar")
class Solar:
    """Depth up-scaling: the first layers, then the last layers, overlapping in the middle."""

    reference = Reference("SOLAR 10.7B: depth up-scaling (Kim et al. 2023)", "2312.15166")

    def layer_map(self, num_small: int, num_target: int) -> LayerMap:
        if num_target > 2 * num_small:
            raise PlanError(
                f"operator.depth=solar joins the first and the last layers of the small model, so it makes at most "
                f"{2 * num_small} layers from {num_small}, not {num_target}.\n"
                f"  Try: operator.depth=stack, or target.num_hidden_layers={2 * num_small}"
            )
        first = (num_target + 1) // 2
        last = np.arange(num_small - (num_target - first), num_small)
        return LayerMap(_one_hot(np.concatenate([np.arange(first), last]), num_small))

    def exactness(self, num_small: int, num_target: int) -> Exactness:
        return _not_exact(num_small, num_target)


@DEPTH_OPERATORS.register("identity")
class Identity:
    """Keep the layers as they are; refuses a target of another depth."""

    reference = Reference("no depth change")

    def layer_map(self, num_small: int, num_target: int) -> LayerMap:
        if num_small != num_target:
            raise PlanError(
                f"operator.depth=identity keeps the {num_small} layers, and the target has {num_target}.\n"
                f"  Try: operator.depth=zero_block, or target.num_hidden_layers={num_small}"
            )
        return LayerMap(np.eye(num_small))

    def exactness(self, num_small: int, num_target: int) -> Exactness:
        return _not_exact(num_small, num_target)

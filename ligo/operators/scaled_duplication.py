"""Scaled duplication: copy units of every space so that the function stays the same at every ratio.

Residual stream, small width D, target width D', unit i copying unit s(i), which has n_s(i) copies:

    R_i = sqrt((D'/D) / n_s(i)) e_s(i),   P = (D/D') R

so that R^T R = (D'/D) I: the mean square of x' = R x is that of x, RMSNorm sees the same statistics with
eps unchanged, and P^T R = I. Heads and FFN units are copied as they are, and whoever reads a unit with
n copies reads each with weight 1/n (Net2Net, Chen et al. 2015, arXiv 1511.05641).
"""

from __future__ import annotations

import numpy as np

from ligo.core.errors import PlanError
from ligo.families.spec import FFN, HEADS, KV_HEADS, RESIDUAL, VOCAB
from ligo.operators.base import WIDTH_OPERATORS, Exactness, Reference, Shapes
from ligo.operators.maps import Select, SpaceMap, copies_per_unit, identity


@WIDTH_OPERATORS.register("scaled_duplication")
class ScaledDuplication:
    """Exact for RMSNorm, rotary positions, gated FFN and grouped heads, at every width ratio."""

    reference = Reference("Net2Net, with norm statistics kept at every ratio", "1511.05641")

    def space_maps(self, shapes: Shapes) -> dict[str, SpaceMap]:
        sizes = shapes.units()
        kv_index = cyclic_index(*sizes[KV_HEADS])
        head_index = grouped_head_index(sizes[HEADS], sizes[KV_HEADS])
        head_dim = shapes.small.head_dim
        vocab = identity(shapes.small.vocab_size)
        return {
            RESIDUAL: residual_map(*sizes[RESIDUAL]),
            HEADS: duplicated(head_index, sizes[HEADS][0], head_dim),
            KV_HEADS: duplicated(kv_index, sizes[KV_HEADS][0], head_dim),
            FFN: duplicated(cyclic_index(*sizes[FFN]), sizes[FFN][0]),
            VOCAB: SpaceMap(vocab, vocab),
        }

    def exactness(self, shapes: Shapes) -> Exactness:
        return Exactness(True, "width: norm statistics kept, copies read with weights that sum to one")


def cyclic_index(num_small: int, num_target: int) -> np.ndarray:
    """0 1 .. n-1 0 1 ..: the small units first, then copies of them in order: [n'] int64."""
    return np.arange(num_target) % num_small


def grouped_head_index(heads: tuple[int, int], kv_heads: tuple[int, int]) -> np.ndarray:
    """Which query head each target query head copies, so that every one keeps its key/value head: [H'].

    Target key/value head k copies small one k mod K; its query heads copy, in turn, those of that small
    group. Arguments are (small, target) counts.

    Raises:
        PlanError: the target has too few query heads per copied group to keep them all.
    """
    (num_small, num_target), (kv_small, kv_target) = heads, kv_heads
    group, target_group = num_small // kv_small, num_target // kv_target
    index = np.empty(num_target, dtype=np.int64)
    for k in range(kv_target):
        copy, source = divmod(k, kv_small)
        slots = copy * target_group + np.arange(target_group)
        index[k * target_group : (k + 1) * target_group] = source * group + slots % group
    lost = sorted(set(range(num_small)) - set(index.tolist()))
    if lost:
        raise PlanError(
            f"query heads {lost} of the small model would be lost: {num_small} query heads in {kv_small} groups"
            f" -> {num_target} in {kv_target} groups leaves {target_group} places per group of {group}.\n"
            "  A query head can only move together with the key/value head it uses.\n"
            f"  Try: target.num_attention_heads={kv_target * group}"
        )
    return index


def duplicated(index: np.ndarray, num_small: int, unit_size: int = 1) -> SpaceMap:
    """Copy units; readers divide by the number of copies."""
    if np.array_equal(index, np.arange(num_small)):
        return SpaceMap(identity(num_small), identity(num_small), unit_size)
    share = 1.0 / copies_per_unit(index, num_small)[index]
    return SpaceMap(
        expand=Select(index, np.ones(len(index)), num_small, label="copy"),
        reduce=Select(index, share, num_small, label="copy / count"),
        unit_size=unit_size,
    )


def residual_map(num_small: int, num_target: int) -> SpaceMap:
    """Scaled duplication of the residual stream, with gains copied."""
    index = cyclic_index(num_small, num_target)
    ratio = num_target / num_small
    scale = np.sqrt(ratio / copies_per_unit(index, num_small)[index])
    copied = Select(index, np.ones(num_target), num_small, label="copy")
    return SpaceMap(
        expand=Select(index, scale, num_small, label="scaled copy" if num_target > num_small else "as it is"),
        reduce=Select(index, scale / ratio, num_small, label="scaled copy"),
        gain=copied,
        tied_gain=Select(index, np.full(num_target, 1 / ratio), num_small, label="copy"),
    )

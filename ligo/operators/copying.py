"""Maps that copy: which unit copies which, and with what weights the copies are written and read.

Residual stream, small width D, target width D', unit i copying unit s(i), which has n_s(i) copies:

RMSNorm    R_i = sqrt((D'/D) / n_s(i)) e_s(i),  P = (D/D') R. Then R^T R = (D'/D) I, so the mean square of
           x' = R x is that of x and eps needs no change, and P^T R = I.
LayerNorm  also takes the mean. Where D' = m D + t with a remainder t, the first m D coordinates copy and the
           last t are the mean of all (average expansion: LEMON, Wang et al., ICLR 2024, arXiv 2310.07999),
           everything times s = sqrt(D' / (m D)), which keeps the variance and needs no other eps. After the
           norm the last t are zero.
"""

from __future__ import annotations

import numpy as np

from ligo.core.errors import PlanError
from ligo.families.spec import KEY_DIM, QUERY_DIM, Norm, Space
from ligo.operators.maps import (
    EVERY_NORM,
    CopiesThenMean,
    Select,
    SpaceMap,
    copies_per_unit,
    unchanged,
)


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


def duplicated(index: np.ndarray, num_small: int, share: np.ndarray | None = None) -> SpaceMap:
    """Copy units; readers divide by the number of copies.

    Args:
        share: [n'] weights of the copies when read, which sum to one over the copies of each unit; None: even.
    """
    if np.array_equal(index, np.arange(num_small)):
        return unchanged(num_small)
    counts = copies_per_unit(index, num_small)
    even = bool(np.all(counts == counts[0]))
    copied = Select(index, np.ones(len(index)), num_small)
    return SpaceMap(
        expand=copied,
        reduce=copied.scaled(1.0 / counts[index] if share is None else share, label="copy / count"),
        gain=copied,
        keeps=EVERY_NORM if even else frozenset(),  # equally many copies leave means and squares as they are
        faithful=True,
    )


def residual_copies(space: Space, num_target: int) -> SpaceMap:
    """Copies of the residual stream that keep the statistics of its norm, at every ratio."""
    num_small, ratio = space.size, num_target / space.size
    index = cyclic_index(num_small, num_target)
    copied = Select(index, np.ones(num_target), num_small)
    head_scale = np.full(num_target, 1 / ratio)
    if space.norm is Norm.LAYER and num_target % num_small:
        num_copies = num_target - num_target % num_small
        scale = float(np.sqrt(num_target / num_copies))
        is_copy = np.arange(num_target) < num_copies
        return SpaceMap(
            expand=CopiesThenMean(index[:num_copies], num_small, num_target, scale),
            reduce=copied.scaled(is_copy / (scale * num_copies / num_small)),
            normed=copied.scaled(is_copy * scale),
            gain=copied,
            head_scale=head_scale,
            keeps=frozenset({Norm.LAYER}),
            faithful=True,
        )
    scale_per_unit = np.sqrt(ratio / copies_per_unit(index, num_small)[index])
    whole = num_target % num_small == 0
    return SpaceMap(
        expand=copied.scaled(scale_per_unit, label="copy" if whole else "scaled copy"),
        reduce=copied.scaled(scale_per_unit / ratio),
        gain=copied,
        head_scale=head_scale,
        keeps=EVERY_NORM if whole else frozenset({Norm.RMS}),
        faithful=True,
    )


def padded(places: np.ndarray, num_target: int, scale: float = 1.0) -> Select:
    """Small unit j goes to place places[j] with a factor; all other places are zero."""
    index, factors = np.zeros(num_target, dtype=np.int64), np.zeros(num_target)
    index[places], factors[places] = np.arange(len(places)), scale
    return Select(index, factors, len(places), label="pad")


def head_dim_maps(small: Space, target: Space) -> SpaceMap:
    """The coordinates of a head that gets more of them: the old ones keep their rotary frequency.

    In heads of h coordinates, pair i turns with theta^(-2 i / h); in heads of k h the same frequency is that of
    pair k i. New coordinates are zero in keys and values. Queries make up for the other score scale,
    h^-1/2 against (k h)^-1/2. Under a norm over the head (Qwen3), old coordinates are scaled to keep its mean
    square, and the norm's gains make up for both.
    """
    places = head_dim_places(small, target)
    old = np.zeros(target.size, dtype=bool)
    old[places] = True
    plain, score = padded(places, target.size), small.score_scale / target.score_scale
    if small.norm is None:
        written, read = (plain.scaled(by) if small.name == QUERY_DIM else plain for by in (score, 1 / score))
        # new query coordinates meet zero keys, so they may be anything: else both would stay zero for ever
        fresh = ~old if small.name == QUERY_DIM else None
        return SpaceMap(expand=written, reduce=read, faithful=True, fresh=fresh)
    spread = np.sqrt(target.size / small.size)
    undo = 1.0 if small.name == KEY_DIM else score
    copied = Select(plain.index, np.where(old, undo / spread, 1.0), small.size)
    keeps = frozenset({Norm.RMS}) if small.norm is Norm.RMS else frozenset()
    return SpaceMap(
        expand=plain.scaled(spread), reduce=plain.scaled(1 / spread), gain=copied, keeps=keeps, faithful=True
    )


def head_dim_places(small: Space, target: Space) -> np.ndarray:
    """Where each coordinate of a small head lies in a target head: [h] int64."""
    if not small.rotary:
        return np.arange(small.size)
    half, target_half = small.rotary // 2, target.rotary // 2
    factor = target_half // half
    turned = np.concatenate([np.arange(half) * factor, target_half + np.arange(half) * factor])
    return np.concatenate([turned, target.rotary + np.arange(small.size - small.rotary)])


def vocabulary_map(num_small: int, num_target: int) -> SpaceMap:
    """New tokens start at the mean of all old ones; the logits of the old tokens stay as they are."""
    if num_small == num_target:
        return unchanged(num_small)
    expand = CopiesThenMean(np.arange(num_small), num_small, num_target, label="as it is, then mean")
    return SpaceMap(expand=expand, reduce=padded(np.arange(num_small), num_target), faithful=True)

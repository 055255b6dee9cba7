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

from dataclasses import replace

import numpy as np

from ligo.core.errors import PlanError
from ligo.families.spec import QUERY_DIM, Norm, Space
from ligo.operators.factors import CopiesThenMean, Factor, Select, copies_per_unit
from ligo.operators.maps import EVERY_NORM, SpaceMap, unchanged


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


def heads_under_one_norm(heads: SpaceMap, kv_heads: SpaceMap) -> tuple[SpaceMap, SpaceMap]:
    """Copies of heads whose queries go through one norm over all heads, and whose keys do so too (OLMo 2).

    As in the residual stream, a head with n copies is written with sqrt((H'/H) / n), which keeps the mean square at
    every ratio; here the norm's gains undo it at once. Values are written like keys, so the output projection
    reads each head with the inverse of its key/value head's scale.
    """
    if not all(isinstance(m.expand, Select) and np.all(m.expand.scale != 0) for m in (heads, kv_heads)):
        # zeros beside the old heads: no scale undoes these, and the maps do not claim it
        return heads, kv_heads
    scale, kv_scale = (_copy_scale(m.expand) for m in (heads, kv_heads))
    of_kv_head = np.repeat(kv_scale, len(scale) // len(kv_scale))
    return (
        _rescaled(heads, written=scale, read=of_kv_head),
        _rescaled(kv_heads, written=kv_scale, read=kv_scale),
    )


def _copy_scale(copied: Factor) -> np.ndarray:
    assert isinstance(copied, Select)
    counts = copies_per_unit(copied.index, copied.num_small)
    return np.asarray(np.sqrt(len(copied.index) / copied.num_small / counts[copied.index]))


def _rescaled(copies: SpaceMap, written: np.ndarray, read: np.ndarray) -> SpaceMap:
    """Copies whose writers multiply by `written`, whose gains undo it, and whose readers find them times `read`."""
    copied, reduce = copies.expand, copies.reduce
    assert isinstance(copied, Select) and isinstance(reduce, Select)
    return replace(
        copies,
        expand=copied.scaled(written),
        normed=copied.scaled(read),
        reduce=reduce.scaled(1 / read),
        gain=copied.scaled(1 / written),
        keeps=copies.keeps | {Norm.RMS},
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
    h^-1/2 against (k h)^-1/2. Under a norm over the head (Qwen3) old key coordinates are scaled to keep its mean
    square, new query coordinates are copies of old ones, and the norms' gains make up for both and for the score.
    New query coordinates meet zero keys, so they may be anything but zero: then both would stay so for ever.
    """
    places, ratio = head_dim_places(small, target), target.size / small.size
    old = np.zeros(target.size, dtype=bool)
    old[places] = True
    plain, score = padded(places, target.size), small.score_scale / target.score_scale
    if small.norm is None:
        written, read = (plain.scaled(by) if small.name == QUERY_DIM else plain for by in (score, 1 / score))
        fresh = ~old if small.name == QUERY_DIM else None
        return SpaceMap(expand=written, reduce=read, faithful=True, fresh=fresh)
    keeps = frozenset({Norm.RMS}) if small.norm is Norm.RMS else frozenset()
    if small.name == QUERY_DIM:
        index = plain.index.copy()
        index[~old] = cyclic_index(small.size, target.size - small.size)
        copied = Select(index, np.ones(target.size), small.size)
        scale = np.sqrt(ratio / copies_per_unit(index, small.size)[index])
        return SpaceMap(
            expand=copied.scaled(scale),
            reduce=plain,
            gain=copied.scaled(score / scale),
            keeps=keeps,
            faithful=True,
        )
    spread = np.sqrt(ratio)
    gain = Select(plain.index, np.where(old, 1 / spread, 1.0), small.size)
    return SpaceMap(
        expand=plain.scaled(spread), reduce=plain.scaled(1 / spread), gain=gain, keeps=keeps, faithful=True
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

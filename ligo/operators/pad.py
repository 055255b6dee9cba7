"""Zero expansion: the old units as they are, new ones that start as zero.

Residual stream: R = sqrt(D'/D) [I; 0], so that RMSNorm sees the same mean square with eps unchanged
(unscaled padding needs another eps). New heads and FFN units write nothing and are read with zero.
"""

from __future__ import annotations

import numpy as np

from ligo.core.errors import PlanError
from ligo.families.spec import FFN, HEADS, KV_HEADS, RESIDUAL, VOCAB
from ligo.operators.base import WIDTH_OPERATORS, Exactness, Reference, Shapes
from ligo.operators.maps import Select, SpaceMap, identity
from ligo.operators.scaled_duplication import cyclic_index, grouped_head_index


@WIDTH_OPERATORS.register("pad")
class Pad:
    """Exact at every ratio, as long as no key/value head loses query heads."""

    reference = Reference("Composable function-preserving expansions (Gesmundo & Maile 2023)", "2308.06103")

    def space_maps(self, shapes: Shapes) -> dict[str, SpaceMap]:
        sizes = shapes.units()
        head_dim = shapes.small.head_dim
        kv_heads = padded(np.arange(sizes[KV_HEADS][0]), sizes[KV_HEADS][1])
        ffn = padded(np.arange(sizes[FFN][0]), sizes[FFN][1])
        vocab = identity(shapes.small.vocab_size)
        return {
            RESIDUAL: _residual_map(*sizes[RESIDUAL]),
            HEADS: _heads_map(sizes[HEADS], sizes[KV_HEADS], head_dim),
            KV_HEADS: SpaceMap(kv_heads, kv_heads, head_dim),
            FFN: SpaceMap(ffn, ffn),
            VOCAB: SpaceMap(vocab, vocab),
        }

    def exactness(self, shapes: Shapes) -> Exactness:
        return Exactness(True, "width: norm statistics kept, new units start at zero")


def padded(places: np.ndarray, num_target: int, scale: float = 1.0) -> Select:
    """Small unit j goes to place places[j] with a factor; all other places are zero."""
    index, factors = np.zeros(num_target, dtype=np.int64), np.zeros(num_target)
    index[places], factors[places] = np.arange(len(places)), scale
    return Select(index, factors, len(places), label="pad")


def _heads_map(heads: tuple[int, int], kv_heads: tuple[int, int], head_dim: int) -> SpaceMap:
    """Query heads: a new one beside an old key/value head would see its values, so it copies a neighbour and is
    read with zero; those of new key/value heads see nothing but zeros. Arguments are (small, target) counts.

    Raises:
        PlanError: the target has too few places for the query heads of a key/value head.
    """
    group, target_group = heads[0] // kv_heads[0], heads[1] // kv_heads[1]
    if target_group < group:
        raise PlanError(
            f"operator.width=pad keeps the {group} query heads of each key/value head, and the target has places for "
            f"{target_group}.\n  Try: target.num_attention_heads={group * kv_heads[1]}"
        )
    kv_head, within = np.divmod(np.arange(heads[0]), group)
    sees_values = (np.arange(heads[1]) < kv_heads[0] * target_group).astype(np.float64)
    expand = Select(grouped_head_index(heads, kv_heads), sees_values, heads[0], label="pad")
    return SpaceMap(expand, padded(kv_head * target_group + within, heads[1]), head_dim)


def _residual_map(num_small: int, num_target: int) -> SpaceMap:
    ratio = num_target / num_small
    places, copied = np.arange(num_small), cyclic_index(num_small, num_target)
    return SpaceMap(
        expand=padded(places, num_target, np.sqrt(ratio)),
        reduce=padded(places, num_target, np.sqrt(ratio) / ratio),
        gain=Select(copied, np.ones(num_target), num_small, label="copy"),  # of new coordinates, any will do
        tied_gain=Select(copied, np.full(num_target, 1 / ratio), num_small, label="copy"),
    )

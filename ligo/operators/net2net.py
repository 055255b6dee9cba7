"""Net2Net: new units copy old ones drawn at random, and readers divide by the number of copies.

As published (function-preserving initialisation, FPI), the residual stream is copied unscaled: RMSNorm then
sees other statistics wherever units have unequally many copies, so this is a baseline, not an exact operator.
"""

from __future__ import annotations

import numpy as np

from ligo.families.spec import FFN, HEADS, KV_HEADS, RESIDUAL, VOCAB
from ligo.operators.base import WIDTH_OPERATORS, Exactness, Reference, Shapes
from ligo.operators.maps import Select, SpaceMap, copies_per_unit, identity
from ligo.operators.scaled_duplication import cyclic_index, duplicated, grouped_head_index

_SEED = 1511_05641  # the draw is part of the operator: the same shapes give the same maps


@WIDTH_OPERATORS.register("net2net")
class Net2Net:
    """Exact where the residual stream does not grow."""

    reference = Reference("Net2Net (Chen et al. 2015); bert2BERT's FPI (Chen et al., ACL 2022)", "1511.05641")

    def space_maps(self, shapes: Shapes) -> dict[str, SpaceMap]:
        sizes = shapes.units()
        rng = np.random.default_rng(_SEED)
        head_dim = shapes.small.head_dim
        vocab = identity(shapes.small.vocab_size)
        residual, ffn = _random_index(rng, *sizes[RESIDUAL]), _random_index(rng, *sizes[FFN])
        copied = Select(residual, np.ones(len(residual)), sizes[RESIDUAL][0], label="copy")
        plain = duplicated(residual, sizes[RESIDUAL][0])
        share = Select(
            residual, 1.0 / copies_per_unit(residual, sizes[RESIDUAL][0])[residual], sizes[RESIDUAL][0]
        )
        return {
            RESIDUAL: SpaceMap(plain.expand, plain.reduce, gain=copied, tied_gain=share),
            # heads move by whole groups, in order: a random draw would part them from their key/value head
            HEADS: duplicated(grouped_head_index(sizes[HEADS], sizes[KV_HEADS]), sizes[HEADS][0], head_dim),
            KV_HEADS: duplicated(cyclic_index(*sizes[KV_HEADS]), sizes[KV_HEADS][0], head_dim),
            FFN: duplicated(ffn, sizes[FFN][0]),
            VOCAB: SpaceMap(vocab, vocab),
        }

    def exactness(self, shapes: Shapes) -> Exactness:
        small, target = shapes.small.hidden_size, shapes.target.hidden_size
        if small == target:
            return Exactness(True, "width: copies read with weights that sum to one")
        return Exactness(False, "width: unequal numbers of unscaled copies change RMSNorm's statistics")


def _random_index(rng: np.random.Generator, num_small: int, num_target: int) -> np.ndarray:
    """The small units first, then copies drawn uniformly: [n'] int64."""
    drawn = rng.integers(0, num_small, num_target - num_small)
    return np.concatenate([np.arange(num_small), drawn])

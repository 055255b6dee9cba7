"""When growth is exact: the rules, checked on what the maps say of themselves, before any weight is read.

The grown model computes the small one's function when, for every space, reading undoes writing, every norm
sees the statistics it saw before, every gain lands where its coordinate went, the layers that do something are
the small ones once each in order, and the output head reads what it read. Each rule has its words.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ligo.core.errors import PlanError
from ligo.families.base import Family
from ligo.families.spec import EXPERTS, RESIDUAL, VOCAB, Role
from ligo.operators.base import Shapes
from ligo.operators.maps import GrowthMaps


@dataclass(frozen=True)
class Exactness:
    """Whether the grown model computes the small one's function, and why or why not."""

    exact: bool
    in_width: bool
    """Whether the width is: then null-space noise changes no output, however layers are stacked."""
    reasons: tuple[str, ...]

    @property
    def reason(self) -> str:
        return "; ".join(self.reasons)


def foldable(family: Family) -> bool:
    """Whether every gain on the residual stream can be folded into readers: all norms stand before readers, the last
    one before a head."""
    read = {spec.gain for spec in family.tensors if RESIDUAL in spec.spaces(Role.READ)}
    gains = [s for s in family.tensors if RESIDUAL in s.spaces(Role.GAIN) and not s.before_head]
    return family.has_head and all(spec.name in read for spec in gains)


def check_gains(shapes: Shapes, maps: GrowthMaps, operator: str) -> None:
    """Refuse maps that mix coordinates where the gains between them can neither be copied nor folded.

    Raises:
        PlanError: the family and the reason.
    """
    space_map = maps.spaces[RESIDUAL]
    if space_map.fold_gains and space_map.gain is None and not foldable(shapes.small):
        raise PlanError(
            f"operator.width={operator} mixes the coordinates of the residual stream, so the gains of the norms must be "
            f"folded into their readers, and in {shapes.small.name} models that cannot be: norms stand after the blocks, "
            "or at the end of a model without a head, where no reader could take their gains.\n"
            "  Try: operator.width=scaled_duplication"
        )


def exactness(shapes: Shapes, maps: GrowthMaps) -> Exactness:
    """The verdict on one growth, with its reasons."""
    in_width, in_depth = list(_broken_in_width(shapes, maps)), list(_broken_in_depth(shapes, maps))
    broken = [*in_width, *in_depth]
    return Exactness(not broken, not in_width, tuple(broken or _kept(shapes, maps)))


def _broken_in_width(shapes: Shapes, maps: GrowthMaps) -> Iterator[str]:
    small, target = shapes.small, shapes.target
    fill = maps.fill
    widens = [name for name in shapes.shared() if shapes.grows(name)]
    if fill is not None and (set(widens) - {VOCAB} or not fill.only_new):  # old tokens do not see new ones
        yield "width: fresh random weights are added"
    for name in widens:
        space_map, norm = maps.spaces[name], small.spaces[name].norm
        if space_map.split is not None:
            yield f"width: new units of {name} come from the layer above"
        if norm is not None and norm not in space_map.keeps:
            yield f"width: {norm.value} sees other statistics of {name} ({space_map.expand.describe()})"
    lossy = (
        key for key, space_map in maps.spaces.items() if not space_map.faithful and space_map.split is None
    )
    # "ffn.3", of one layer, is the FFN's too
    for name in dict.fromkeys(key.partition(".")[0] for key in lossy):
        if name != EXPERTS:
            yield f"width: readers of {name} do not undo its writers"
    residual = maps.spaces[RESIDUAL]
    if small.post_norm and residual.normed is not None:
        yield "width: the normed stream is itself added to, and its new coordinates do not stay the mean of the others"
    if target.dims.tied and residual.head_scale is None:
        yield "width: the tied head does not read what the embedding writes"
    if EXPERTS in small.spaces:
        (few, many), taken = (
            shapes.sizes(EXPERTS),
            (small.dims.experts_per_token, target.dims.experts_per_token),
        )
        if many % few or taken[0] * many != taken[1] * few:
            yield (
                f"experts: a token finds the copies of its experts only where all have equally many and it takes "
                f"as many times more ({taken[0]} of {few} -> {taken[1]} of {many})"
            )


def _broken_in_depth(shapes: Shapes, maps: GrowthMaps) -> Iterator[str]:
    layers = maps.layers
    if layers.identity_layers and shapes.small.post_norm:
        yield "depth: a norm follows every block, so that inserted layers cannot do nothing"
    elif not layers.once_in_order:
        copied = ((layers.weights == 0) | (layers.weights == 1)).all()
        yield "depth: " + ("copied layers are applied twice" if copied else "layers are mixed")


def _kept(shapes: Shapes, maps: GrowthMaps) -> Iterator[str]:
    if any(shapes.grows(name) for name in shapes.shared() if name not in (VOCAB, EXPERTS)):
        yield "width: norm statistics kept, reading undoes writing"
    if VOCAB in shapes.small.spaces and shapes.grows(VOCAB):
        yield "vocabulary: logits of the old tokens kept, new tokens start at the mean"
    if EXPERTS in shapes.target.spaces and EXPERTS not in shapes.small.spaces:
        yield "experts: all are copies, so it does not matter which a token takes"
    elif EXPERTS in shapes.small.spaces and shapes.grows(EXPERTS):
        yield "experts: every copy is taken together with its original, at half its weight or less"
    inserted = len(maps.layers.identity_layers)
    yield f"depth: {inserted} inserted layers add zero" if inserted else "depth: unchanged"

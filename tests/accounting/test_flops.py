"""FLOPs by formula against torch's own counter, over all families."""

from __future__ import annotations

import pytest

from ligo.accounting.flops import model_flops, sequence_flops
from ligo.families.base import family_of, known_model_types
from tests.accounting.flop_shapes import SHAPES, step_flops
from tests.families.tiny_others import OTHERS


def test_there_are_twenty_shapes_of_every_family() -> None:
    assert len(SHAPES) == 20
    assert {config["model_type"] for config in SHAPES.values()} == set(known_model_types())


@pytest.mark.parametrize("name", SHAPES)
def test_the_formula_is_exactly_what_torch_counts(name: str) -> None:
    formula, counted = step_flops(SHAPES[name])
    assert formula == counted


def test_tokens_share_what_their_sequence_costs() -> None:
    """ViT's head runs once per image: per token it is a fraction, rounded to whole FLOPs."""
    family = family_of({**OTHERS["vit"], "id2label": {str(number): "class" for number in range(7)}})
    length = family.tokens_per_image
    assert sequence_flops(family, length) % length, "this shape would not be rounded"
    assert abs(model_flops(family, length).forward - sequence_flops(family, length) / length) <= 0.5

"""The exact start on every family: stock reload, tied weights, float32, determinism; and the page of the matrix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ligo.checkpoint.writer import write_weights
from ligo.core.files import write_json
from ligo.families.base import family_of
from ligo.families.stock import running_names
from ligo.growth.execute import grow_tensors
from ligo.growth.plan import GrowthPlan
from ligo.growth.verify import load_stock
from ligo.operators.noise_level import NoiseLevel
from tests.contract import matrix, page
from tests.contract.matrix import FAMILIES, plan
from tests.growing import EXACT_FLOAT32, Grown, grow, lively_model, on_disk_weights


def exact_growth(family: str, **options: Any) -> Grown:
    """Twice everything; only the width where a norm follows every block, so that no layer can do nothing."""
    wanted = matrix.wanted(family, "2x")
    if family_of(FAMILIES[family]).post_norm:
        del wanted["num_layers"]
    return grow(FAMILIES[family], wanted, **options)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_exact_start_is_exact_in_float32_and_loads_as_a_stock_checkpoint(
    family: str, tmp_path: Path
) -> None:
    grown = exact_growth(family, dtype="float32")
    assert grown.plan.exactness.exact
    assert grown.difference() <= EXACT_FLOAT32
    written, tensors = on_disk_weights(grown.model), grown.plan.target.tensors
    write_weights(tmp_path, [(spec.name, written[spec.name]) for spec in tensors])
    write_json(tmp_path / "config.json", {**grown.plan.target_config, "dtype": "float32"})
    reloaded = load_stock(tmp_path)  # refuses missing, unexpected and mis-shaped tensors
    again, parameters = on_disk_weights(reloaded), dict(reloaded.named_parameters(remove_duplicate=False))
    names = running_names(reloaded)
    for spec in tensors:
        assert torch.equal(again[spec.name], written[spec.name])
        for alias in spec.aliases:
            assert parameters[alias] is parameters[names[spec.name]], f"{alias} is no longer tied"


@pytest.mark.parametrize("family", FAMILIES)
def test_growth_is_the_same_every_time_and_in_the_dtype_asked_for(family: str) -> None:
    found = plan(family, "2x", "scaled_duplication", "zero_block")
    assert isinstance(found, GrowthPlan)
    read = on_disk_weights(lively_model(found.small, "float32")).__getitem__
    first, again, other = (
        dict(grow_tensors(found, found.maps, read, dtype=torch.float32, noise=NoiseLevel(), seed=seed))
        for seed in (0, 0, 1)
    )
    assert list(first) == [spec.name for spec in found.target.tensors]
    for name, tensor in first.items():
        assert tensor.dtype is torch.float32
        assert tuple(tensor.shape) == found.job_of[name].shape
        assert torch.equal(tensor, again[name])
    assert any(not torch.equal(tensor, other[name]) for name, tensor in first.items())


def test_the_page_of_the_matrix_is_what_is_declared() -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.render(), (
        "make it anew: python -m tests.contract.page"
    )

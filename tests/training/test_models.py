"""What an engine gives back is named as on disk, and loads again as the same stock model, whatever its class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ligo.checkpoint.writer import write_weights
from ligo.core.files import write_json
from ligo.families.base import family_of
from ligo.families.stock import expected_shapes
from ligo.training.config import batch_shape
from ligo.training.engines import make_engine
from ligo.training.models import fresh_model, pretrained_model
from ligo.training.objectives import make_objective
from tests.families.tiny import TINY
from tests.families.tiny_others import OTHERS
from tests.training.arms import CONFIG, LENGTH

MODELS = {name: {**TINY, **OTHERS}[name] for name in ("mixtral", "bert", "vit")}


@pytest.mark.parametrize("config", MODELS.values(), ids=list(MODELS))
def test_weights_have_their_names_on_disk_and_load_again(config: dict[str, Any], tmp_path: Path) -> None:
    family = family_of(config)
    model = fresh_model(config, seed=0)
    engine = make_engine(model, make_objective(family), CONFIG, batch_shape(CONFIG, LENGTH, 1), {})
    weights = engine.weights()
    assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == expected_shapes(family)

    write_weights(tmp_path, weights.items())
    write_json(tmp_path / "config.json", config)
    again = pretrained_model(tmp_path, {}, CONFIG)
    assert type(again) is type(model)
    for name, parameter in model.named_parameters():
        assert torch.equal(again.get_parameter(name), parameter)

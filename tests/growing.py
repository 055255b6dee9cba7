"""Grow tiny random stock models in memory: what exactness tests of every room stand on."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ligo.checkpoint.assets import TOKENIZER_FILES
from ligo.families.base import Family
from ligo.families.spec import Role
from ligo.families.stock import as_on_disk, as_running, fresh_model
from ligo.growth.execute import grow_tensors
from ligo.growth.plan import GrowthPlan, plan_growth
from ligo.growth.verify import comparable, outputs
from ligo.operators.base import DEPTH_OPERATORS, WIDTH_OPERATORS
from ligo.operators.config import Operator
from ligo.operators.noise_level import NoiseLevel

EXACT_FLOAT64 = 1e-12  # rounding of a float64 forward at logits of about 3
EXACT_FLOAT32 = 5e-5  # the same in float32


def operator(width: str = "scaled_duplication", depth: str = "zero_block") -> Operator:
    return Operator(WIDTH_OPERATORS.get(width)(), DEPTH_OPERATORS.get(depth)())


def lively_model(family: Family, dtype: str = "float64", seed: int = 0) -> Any:
    """A stock model with weights that matter: logits of about 3, gains away from one, shifts and biases not zero."""
    torch.manual_seed(seed)
    model = fresh_model(family, dtype).eval()
    on_disk = as_on_disk(model, dict(model.named_parameters()))
    lively = {}
    for name, like in on_disk.items():
        spec, noise = family.by_name[name], torch.randn(like.shape, dtype=like.dtype)
        if spec.axes[0].role is Role.GAIN:
            lively[name] = 1 - spec.offset + 0.3 * noise
        else:
            lively[name] = noise * (0.3 if spec.layer is None or len(spec.axes) == 1 else 0.2)
    load_from_disk_names(model, lively)
    return model


def load_from_disk_names(model: Any, weights: Mapping[str, Tensor]) -> None:
    """Put weights named as on disk into a running model, all of them."""
    missing, unexpected = model.load_state_dict(as_running(model, weights), strict=False)
    tied = set(getattr(model, "_tied_weights_keys", None) or ())
    assert not unexpected
    assert set(missing) <= tied, missing


def on_disk_weights(model: Any) -> dict[str, Tensor]:
    return {
        name: tensor.detach() for name, tensor in as_on_disk(model, dict(model.named_parameters())).items()
    }


def with_fresh_head(bare: Path, folder: Path, seed: int = 0) -> Path:
    """Save a text encoder without a head once more: with a masked-LM head drawn fresh, and its tokenizer beside it."""
    from transformers import AutoModelForMaskedLM

    torch.manual_seed(seed)
    AutoModelForMaskedLM.from_pretrained(bare, local_files_only=True).save_pretrained(folder)
    for name in (*TOKENIZER_FILES, "tokenizer_config.json"):
        if (bare / name).is_file():
            shutil.copy(bare / name, folder)
    return folder


def probe(family: Family, length: int = 24) -> Tensor:
    """Token ids [2, length], or images [2, channels, height, width]."""
    generator = torch.Generator().manual_seed(0)
    if not family.dims.vocab_size:
        size, channels = family.setting("image_size", 224), family.setting("num_channels", 3)
        return torch.randn(2, channels, size, size, generator=generator, dtype=torch.float64)
    return torch.randint(3, family.dims.vocab_size, (2, length), generator=generator)


@dataclass
class Grown:
    plan: GrowthPlan
    small: Any
    model: Any

    def difference(self) -> float:
        """Largest difference of logits, at logits of about 3; new tokens left out. Hidden states where there is no head."""
        inputs = probe(self.plan.small)
        if inputs.is_floating_point():
            inputs = inputs.to(next(self.small.parameters()).dtype)
        expected, found = outputs(self.small, inputs), outputs(self.model, inputs)
        assert found.isfinite().all()
        found = comparable(found, expected, self.plan.read_back)
        assert float(expected.abs().max()) > 0.2, "the test model must not be trivial"
        scale = max(1.0, float(expected.abs().max()) / 3)
        return float((found - expected).abs().max()) / scale


def grow_model(plan: GrowthPlan, *, dtype: str = "float64", noise: float = 1.0, seed: int = 3) -> Grown:
    """A lively small model and the model grown from it, both stock."""
    small, model = lively_model(plan.small, dtype), lively_model(plan.target, dtype, seed=1)
    read = on_disk_weights(small).__getitem__
    weights = grow_tensors(
        plan, plan.maps, read, dtype=getattr(torch, dtype), noise=NoiseLevel(noise), seed=seed
    )
    load_from_disk_names(model, dict(weights))
    return Grown(plan, small, model)


def grow(
    config: Mapping[str, Any], wanted: Mapping[str, int], width: str = "scaled_duplication",
    depth: str = "zero_block", **options: Any,
) -> Grown:  # fmt: skip
    return grow_model(plan_growth(config, wanted, operator(width, depth)), **options)

"""The stock model of a family: the transformers class that loads it, built without weights, and its names.

The names in a family's table are those on disk. Recent transformers renames tensors while loading (and joins
those of experts), so names in the running model may differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ligo.core.errors import CheckpointError, PlanError
from ligo.families.base import Family

if TYPE_CHECKING:
    from torch import Tensor, nn

_AUTO_CLASSES = {
    "causal_lm": "AutoModelForCausalLM",
    "masked_lm": "AutoModelForMaskedLM",
    "classes": "AutoModelForSequenceClassification",
    "image_classes": "AutoModelForImageClassification",
}


def model_class(family: Family) -> Any:
    """The transformers class that `architectures` names, or the one for the family's objective.

    Raises:
        CheckpointError: transformers has no such class.
    """
    import transformers

    named = (family.config.get("architectures") or [None])[0]
    found = getattr(transformers, named or _AUTO_CLASSES[family.objective], None)
    if found is None:
        raise CheckpointError(
            f"config.json names the class {named}, which transformers {transformers.__version__} does not have.\n"
            "  Try: a transformers version in the range that setup.py names"
        )
    return found


def fresh_model(family: Family) -> Any:
    """The stock model with fresh weights from torch's global seed; under `torch.device("meta")` without."""
    from transformers import AutoConfig

    config, build = AutoConfig.for_model(**family.config), model_class(family)
    return build.from_config(config) if hasattr(build, "from_config") else build(config)


def skeleton(family: Family) -> nn.Module:
    """The stock model without weights (they are on the meta device); its rotary tables are real."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        model: nn.Module = fresh_model(family).eval()
    return model


def as_on_disk(model: Any, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the running model under their names on disk, experts apart again."""
    from transformers.core_model_loading import revert_weight_conversion

    renamed: dict[str, Tensor] = revert_weight_conversion(model, dict(tensors))
    return renamed


def running_names(model: Any) -> dict[str, str]:
    """Name on disk -> name in the running model, for tensors that are only renamed; a tied one has one name."""
    parameters = dict(model.named_parameters())
    names = {id(parameter): name for name, parameter in parameters.items()}
    return {
        disk: names[id(tensor)]
        for disk, tensor in as_on_disk(model, parameters).items()
        if id(tensor) in names
    }


def expected_shapes(family: Family) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape, as the family's table has it."""
    return {spec.name: spec.shape(family.spaces) for spec in family.tensors}


def check_coverage(family: Family) -> None:
    """Compare the family's table with what the stock model (on the meta device) would save.

    Raises:
        PlanError: a tensor is missing from either side, or has another shape; all are named.
    """
    import torch

    with torch.device("meta"):
        model = fresh_model(family)
    saved = as_on_disk(model, dict(model.named_parameters()))
    real = {name: tuple(parameter.shape) for name, parameter in saved.items()}
    table = expected_shapes(family)
    wrong = [f"{name}: table {table.get(name)}, model {real.get(name)}" for name in sorted(real.keys() | table.keys())
             if table.get(name) != real.get(name)]  # fmt: skip
    if wrong:
        listed = "\n    ".join(wrong[:8])
        raise PlanError(
            f"the table of family {family.name} does not match the model that transformers builds:\n"
            f"    {listed}\n  Try: a transformers version in the range that setup.py names"
        )

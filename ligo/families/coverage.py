"""A family's table against the real model, both ways: a missing tensor must never go unnoticed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ligo.core.errors import PlanError
from ligo.families.base import Family


def expected_shapes(family: Family, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape, as the family's table has it."""
    dims = family.dims(config)
    spaces = family.spaces(dims)
    return {spec.name: spec.shape(spaces) for spec in family.tensors(dims)}


def check_coverage(family: Family, config: Mapping[str, Any]) -> None:
    """Compare the family's table with the stock model that transformers builds (on the meta device).

    Raises:
        PlanError: a tensor is missing from either side, or has another shape; all are named.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    model_config = AutoConfig.for_model(**config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config)
    real = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    table = expected_shapes(family, config)
    wrong = [f"{name}: table {table.get(name)}, model {real.get(name)}" for name in sorted(real.keys() | table.keys())
             if table.get(name) != real.get(name)]  # fmt: skip
    if wrong:
        listed = "\n    ".join(wrong[:8])
        raise PlanError(
            f"the table of family {type(family).__name__} does not match the model that transformers builds:\n"
            f"    {listed}\n  Try: a transformers version in the range that setup.py names"
        )

"""The stock model of a family: the transformers class that loads it, built without weights, and its names.

The names in a family's table are those on disk. Recent transformers renames tensors while loading (and joins
those of experts), so names in the running model may differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from ligo.core.errors import CheckpointError, PlanError
from ligo.families.base import Family
from ligo.families.names import with_norms_of_today

if TYPE_CHECKING:
    from torch import Tensor, nn

AUTO_CLASSES = {
    "causal_lm": "AutoModelForCausalLM",
    "masked_lm": "AutoModelForMaskedLM",
    "classes": "AutoModelForSequenceClassification",
    "image_classes": "AutoModelForImageClassification",
    "none": "AutoModel",
}


def model_class(family: Family) -> Any:
    """The transformers class that `architectures` names, or the one for the family's objective.

    Raises:
        CheckpointError: transformers has no such class.
    """
    import transformers

    named = (family.config.get("architectures") or [None])[0]
    found = getattr(transformers, named or AUTO_CLASSES[family.objective], None)
    if found is None:
        raise CheckpointError(
            f"config.json names the class {named}, which transformers {transformers.__version__} does not have.\n"
            "  Try: a transformers version in the range that setup.py names"
        )
    return found


def fresh_model(family: Family, dtype: str = "float32") -> Any:
    """The stock model with fresh weights from torch's global seed; under `torch.device("meta")` without.

    Args:
        dtype: in which all of it is built, whatever config.json says: weights, and constants, which no later cast makes
            exact again (Gemma's root of hidden_size).
    """
    import torch
    from transformers import AutoConfig

    config, build = AutoConfig.for_model(**family.config), model_class(family)
    make = build.from_config if hasattr(build, "from_config") else build._from_config
    return make(config, dtype=getattr(torch, dtype))


def skeleton(family: Family) -> nn.Module:
    """The stock model without weights (they are on the meta device); its rotary tables are real."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        model: Any = fresh_model(family).eval()
    model.tie_weights()  # moving to the meta device parted what is tied
    skeleton_: nn.Module = model
    return skeleton_


def as_on_disk(model: Any, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the running model under their names on disk, experts apart again."""
    from transformers.core_model_loading import revert_weight_conversion

    # transformers would save a model under the names that it was loaded from
    return {
        with_norms_of_today(name): tensor
        for name, tensor in revert_weight_conversion(model, dict(tensors)).items()
    }


def running_names(model: Any) -> dict[str, str]:
    """Name on disk -> name in the running model, for tensors that are only renamed; a tied one has one name."""
    parameters = dict(model.named_parameters())
    names = {id(parameter): name for name, parameter in parameters.items()}
    return {
        disk: names[id(tensor)]
        for disk, tensor in as_on_disk(model, parameters).items()
        if id(tensor) in names
    }


# by model, because it is asked for at every step of learning
_PIECES: WeakKeyDictionary[Any, dict[str, tuple[str, ...]]] = WeakKeyDictionary()


def as_running(model: Any, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors named as on disk under their names in the running model, experts joined; with autograd.

    Raises:
        CheckpointError: a tensor of the model is missing, or is made in a way that is not known.
    """
    running = {}
    for name, pieces in disk_pieces(model).items():
        missing = [piece for piece in pieces if piece not in tensors]
        if missing:
            raise CheckpointError(
                f"the tensor {missing[0]} is missing, and the model cannot run without it.\n"
                "  Try: write the checkpoint again"
            )
        running[name] = joined([tensors[piece] for piece in pieces], model.get_parameter(name).shape)
    return running


def joined(pieces: list[Tensor], shape: tuple[int, ...]) -> Tensor:
    """The tensor of the running model that these on disk make."""
    import torch

    return pieces[0] if len(pieces) == 1 else torch.cat(pieces).reshape(shape)


def disk_pieces(model: Any) -> dict[str, tuple[str, ...]]:
    """Name in the running model -> the tensors on disk that make it, in the order of their rows.

    Raises:
        CheckpointError: a tensor is made in a way that is not known.
    """
    if model not in _PIECES:
        _PIECES[model] = _disk_pieces(model)
    return _PIECES[model]


def _disk_pieces(model: Any) -> dict[str, tuple[str, ...]]:
    """
    Joined experts are [experts, rows, columns]: their tensors on disk are blocks of rows of [experts * rows,
    columns], and numbers in place of the weights tell which.
    """
    import torch

    pieces: dict[str, tuple[str, ...]] = {r: (disk,) for disk, r in running_names(model).items()}
    for name, parameter in model.named_parameters():
        if name in pieces:
            continue
        rows = torch.arange(parameter.shape[:2].numel()).reshape(*parameter.shape[:2], 1)
        blocks = sorted(as_on_disk(model, {name: rows}).items(), key=lambda item: int(item[1].min()))
        if not torch.equal(torch.cat([block for _, block in blocks]).flatten(), rows.flatten()):
            raise CheckpointError(
                f"transformers saves {name} in pieces that ligo does not know how to join again.\n"
                "  Try: a transformers version in the range that setup.py names"
            )
        pieces[name] = tuple(disk for disk, _ in blocks)
    return pieces


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

"""Any checkpoint folder under a head of another task, by transformers' own classes.

What the folder has of the head is taken, the rest of the head is drawn from a seed. Of what lies below the head nothing
may be missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ligo.checkpoint.load import load_model
from ligo.core.errors import CheckpointError
from ligo.evaluation.models import Model
from ligo.families.base import Family
from ligo.families.stock import expected_shapes


def check_body(model: Model, family: Family) -> None:
    """Refuse a checkpoint that lacks weights below its head; headers alone are read.

    Raises:
        CheckpointError: the weights are named.
    """
    found = model.checkpoint.named_for(family).shapes
    prefix = f"{family.body}." if family.has_head else ""
    wanted = {
        name: shape
        for name, shape in expected_shapes(family).items()
        if _is_of_body(name, prefix, (*family.other_heads, "pooler."))
    }
    wrong = [name for name, shape in wanted.items() if found.get(name) != shape]
    if wrong:
        raise _lacks(f"models.{model.name}: {model.checkpoint.folder}", wrong)


def model_with_head(
    folder: Path, head: str, family: Family, seed: int, **config: Any
) -> tuple[Any, list[str]]:
    """The model in float32, and the names of weights that were drawn.

    Args:
        head: a class of transformers, such as AutoModelForSequenceClassification.
        family: of the checkpoint.
        seed: of what is drawn.
        config: keys of config.json in the place of the folder's.

    Raises:
        CheckpointError: transformers has no such head for the model, or a weight below the head is missing.
    """
    import transformers

    torch.manual_seed(seed)
    try:
        model, found = load_model(
            getattr(transformers, head),
            folder,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # of a head for other classes
            **config,
        )
    except ValueError as error:
        raise CheckpointError(
            f"transformers has no {head.removeprefix('AutoModelFor')} head for {family.name} models: "
            f"{str(error).splitlines()[0][:200]}\n  Try: a checkpoint of another family"
        ) from error
    drawn = sorted({*found["missing_keys"], *(key[0] for key in found["mismatched_keys"])})
    below = [name for name in drawn if _is_of_body(name, f"{model.base_model_prefix}.", family.other_heads)]
    if below:
        raise _lacks(str(folder), below)
    model.config.use_cache = False
    return model, drawn


def _is_of_body(name: str, prefix: str, heads: tuple[str, ...]) -> bool:
    """Whether a weight lies below the head; poolers are heads that transformers counts to the body."""
    return name.startswith(prefix) and not name.startswith(heads)


def _lacks(what: str, names: Sequence[str]) -> CheckpointError:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return CheckpointError(
        f"{what} lacks {', '.join(names[:3])}{more}, or has it in another shape, and only heads are drawn anew.\n"
        "  Try: download the checkpoint again, or save it again with save_pretrained"
    )

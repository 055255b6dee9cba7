"""Any checkpoint folder under a head of another task, by transformers' own classes.

What the folder has of the head is taken, the rest of the head is drawn from a seed, and said. Of what lies below the
head nothing may be missing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ligo.core.errors import CheckpointError
from ligo.families.base import Family


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
        model, found = getattr(transformers, head).from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
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
    below = [name for name in drawn if not _is_of_head(name, model, family)]
    if below:
        raise CheckpointError(
            f"{folder} lacks {_first_few(below)}, or has it in another shape, and only heads are drawn anew.\n"
            "  Try: download the checkpoint again, or save it again with save_pretrained"
        )
    model.config.use_cache = False
    return model, drawn


def _is_of_head(name: str, model: Any, family: Family) -> bool:
    """Whether a weight lies outside the body; poolers are heads that transformers counts to the body."""
    return not name.startswith(f"{model.base_model_prefix}.") or name.startswith(family.other_heads)


def _first_few(names: list[str], how_many: int = 3) -> str:
    rest = len(names) - how_many
    return ", ".join(names[:how_many]) + (f" and {rest} more" if rest > 0 else "")

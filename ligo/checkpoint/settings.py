"""What the JSON in a checkpoint folder may ask of stock loaders: sizes of a model, and nothing that is code or lies elsewhere.

The keys are those that transformers 5.23 and PEFT 0.21 act on as they load.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ligo.checkpoint.strict_json import SAVE_AGAIN
from ligo.core.errors import CheckpointError
from ligo.families.base import family_of

_LEADS_ELSEWHERE = {
    "configuration_files": "transformers would read another config in its place",
    "transformers_weights": "transformers would read other weights than those that are checked",
    "fusion_config": "transformers would change the model's code by it",
    "per_layer_config": "transformers would build layers that differ from the others",
}
_LARGEST_NUMBER = 10**7
_LARGEST = {
    **dict.fromkeys(
        ("num_hidden_layers", "num_layers", "n_layer"), 2000
    ),  # every one is described: 10,000 take a second
    **dict.fromkeys(("num_experts", "num_local_experts"), 10**4),
    "num_labels": 10**6,
    "max_position_embeddings": 10**8,
}
"""Far above those of any model. Keys that begin with rope_ hold angles, not sizes."""
_MOST_BLOCKS = 10**5  # experts of all layers


def check_config(file: Path, config: Mapping[str, Any]) -> None:
    """
    Raises:
        CheckpointError: a config.json has sizes that no model has, values that none can have, or leads stock loaders elsewhere.
    """
    _check_numbers(file, config)
    for key, why in _LEADS_ELSEWHERE.items():
        if config.get(key) is not None:
            raise CheckpointError(f"{file} says {key}={config[key]!r}: {why}.\n  Try: remove that key")
    for part in ("attn", "experts"):
        for key in (f"{part}_implementation", f"_{part}_implementation"):
            if "/" in str(config.get(key)):
                raise CheckpointError(
                    f"{file} says {key}={config[key]!r}, which is code from the hub, and is not run.\n"
                    "  Try: remove that key"
                )
    _check_model(file, config)


def check_adapter_config(file: Path, config: Mapping[str, Any]) -> None:
    """
    Raises:
        CheckpointError: an adapter_config.json has sizes that no adapter has, or names modules to import.
    """
    _check_numbers(file, config)
    if config.get("auto_mapping") or config.get("megatron_core") not in (None, "megatron.core"):
        raise CheckpointError(
            f"{file} names modules to import (auto_mapping, megatron_core), which is not done.\n"
            "  Try: remove these keys"
        )


def check_tokenizer_settings(file: Path, settings: Mapping[str, Any]) -> None:
    """
    Raises:
        CheckpointError: a tokenizer_config.json names files that lie elsewhere.
    """
    if settings.get("init_inputs"):
        raise CheckpointError(
            f"{file} gives init_inputs, which tokenizers would take for files to read.\n  Try: remove that key"
        )
    names = settings.get("fast_tokenizer_files") or []
    if not isinstance(names, list) or any(Path(str(name)).name != name for name in names):
        raise CheckpointError(
            f"{file} points to {names!r}, which are not plain names of files in the same folder.\n"
            "  Try: remove fast_tokenizer_files"
        )


def _check_numbers(file: Path, value: Any, key: str = "") -> None:
    """Refuse numbers that are no size of any model, wherever they stand: loaders make lists and tables by them."""
    if isinstance(value, Mapping):
        for inner, held in value.items():
            if not inner.startswith("rope_"):
                _check_numbers(file, held, inner)
    elif isinstance(value, list):
        for held in value:
            _check_numbers(file, held, key)
    elif isinstance(value, int | float):
        largest = _LARGEST.get(key, _LARGEST_NUMBER)
        if not -largest <= value <= largest:
            raise CheckpointError(
                f"{file} says {key}={value:g}, and no model has more than {largest:,}.\n  {SAVE_AGAIN}"
            )


def _check_model(file: Path, config: Mapping[str, Any]) -> None:
    """Refuse values that the description of the model stumbles over; what it refuses itself is said where it is needed."""
    try:
        family = family_of(config)
        blocks = family.dims.num_layers * max(1, family.dims.num_experts)
        if blocks <= _MOST_BLOCKS:
            family.num_parameters  # noqa: B018 - reads the whole description
            return
    except CheckpointError:
        return
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{file} describes no model: a value is of a form that it cannot have ({type(error).__name__}: {error}).\n"
            f"  {SAVE_AGAIN}"
        ) from error
    raise CheckpointError(
        f"{file} describes {blocks:,} blocks, and no model has more than {_MOST_BLOCKS:,}.\n  {SAVE_AGAIN}"
    )

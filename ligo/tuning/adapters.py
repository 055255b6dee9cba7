"""Adapters beside frozen weights, by PEFT: made, checked before any weight is read, saved and merged.

PEFT is asked for everything; what is checked here is what it would let pass or say late.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ligo.checkpoint.inspect import ADAPTER_CONFIG, ADAPTER_FILE, header_of, inspect_adapter
from ligo.checkpoint.load import load_adapter_beside, load_adapter_config
from ligo.checkpoint.reader import WEIGHTS_FILE, read_json_object
from ligo.checkpoint.writer import disk_errors, write_weights
from ligo.core.errors import CheckpointError, ConfigError, nearest, require
from ligo.families.base import Family
from ligo.families.stock import skeleton
from ligo.tuning.config import TuningConfig

RECORD = "ligo.json"
_ONE_SHARD = 10**15  # bytes; PEFT reads one file
_CLASSES = {"lora": "LoraConfig", "vera": "VeraConfig"}


def import_peft(why: str) -> Any:
    """Import PEFT; bitsandbytes, which it looks for, remarks at import on an inference kernel that nothing here uses."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    return require("peft", extra="peft", why=why)


def peft_config(tuning: TuningConfig) -> Any:
    """PEFT's config of the adapter: from the folder to go on from, or from `tuning.peft`.

    Raises:
        ConfigError: PEFT is missing, or has no such key, or refuses a value.
        CheckpointError: the folder holds no adapter of this method.
    """
    peft = import_peft(f"tuning.method={tuning.method}")
    made = getattr(peft, _CLASSES[tuning.method])
    if tuning.adapter is not None:
        return _config_of_folder(Path(tuning.adapter).expanduser(), made, tuning.method)
    known = [name for name in made.__dataclass_fields__ if name not in ("peft_type", "auto_mapping")]
    for key in tuning.peft:
        if key not in known:
            raise ConfigError(
                f"PEFT's {made.__name__} has no key '{key}' (tuning.peft.{key}).\n"
                f"  Try: tuning.peft.{nearest(key, known) or 'r'}="
            )
    try:
        return made(**{"task_type": "CAUSAL_LM", **tuning.peft})
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"PEFT's {made.__name__} does not take tuning.peft={tuning.peft}: {error}\n"
            "  Try: the values as PEFT's documentation has them"
        ) from error


def _config_of_folder(folder: Path, made: Any, method: str) -> Any:
    for name in (ADAPTER_CONFIG, ADAPTER_FILE):
        if not (folder / name).is_file():
            raise CheckpointError(
                f"tuning.adapter={folder} is no PEFT folder: it has no {name}.\n  Try: tuning.adapter=RUN/adapter"
            )
    found = inspect_adapter(folder)
    if str(found.get("peft_type", "")).lower() != method:
        raise CheckpointError(
            f"tuning.adapter={folder} is an adapter of the kind {found.get('peft_type')}, and tuning.method={method}.\n"
            f"  Try: tuning={str(found.get('peft_type', 'lora')).lower()}"
        )
    config = load_adapter_config(made, folder)
    config.base_model_name_or_path = None  # PEFT would compare it with the name of a skeleton
    return config


def add_adapter(model: nn.Module, config: Any, *, on_meta: bool = False) -> Any:
    """The model with an adapter that changes nothing yet, all else frozen: PEFT's PeftModel.

    Args:
        on_meta: make no weights; for checks.

    Raises:
        ConfigError: a target module matches nothing; the names that exist are given.
    """
    peft = import_peft("adapters")
    targets = config.target_modules
    linear = sorted({name.split(".")[-1] for name, module in model.named_modules() if is_linear(module)})
    hint = f"  There are: {', '.join(linear)}.\n  Try: tuning.peft.target_modules=all-linear"
    try:
        with _quiet():
            adapted = peft.get_peft_model(model, config, low_cpu_mem_usage=on_meta)
    except ValueError as error:
        raise ConfigError(f"PEFT cannot adapt this model: {error}\n{hint}") from error
    adapted_names = adapted.base_model.targeted_module_names
    unmatched = [
        name
        for name in (targets if isinstance(targets, (list, set, tuple)) else ())
        if not any(full == name or full.endswith(f".{name}") for full in adapted_names)
    ]
    if unmatched:
        raise ConfigError(f"tuning.peft.target_modules: nothing is named {', '.join(unmatched)}.\n{hint}")
    return adapted


def is_linear(module: nn.Module) -> bool:
    """Whether a module is what adapters stand beside and bitsandbytes quantises."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def check_adapter(family: Family, tuning: TuningConfig, fingerprint: str) -> None:
    """Refuse, before any weight is read, an adapter that does not fit.

    Args:
        fingerprint: of the checkpoint (`Checkpoint.fingerprint`).

    Raises:
        ConfigError: as `peft_config` and `add_adapter` do.
        CheckpointError: the folder to go on from belongs to another checkpoint.
    """
    adapted = add_adapter(skeleton(family), peft_config(tuning), on_meta=True)
    if tuning.adapter is not None:
        _check_belongs(Path(tuning.adapter).expanduser(), adapted, fingerprint)


def _check_belongs(folder: Path, adapted: Any, fingerprint: str) -> None:
    """
    Raises:
        CheckpointError: the adapter was made for another checkpoint, as its record says, or as its shapes do.
    """
    if (folder / RECORD).is_file():
        there = read_json_object(folder / RECORD).get("base_fingerprint", fingerprint)
        if there != fingerprint:
            raise CheckpointError(
                f"the adapter in {folder} was tuned beside another checkpoint (fingerprint {there[:8]}, here "
                f"{fingerprint[:8]}), and beside this one it means nothing.\n  Try: small.path= of that checkpoint"
            )
    found = {name: entry.shape for name, entry in header_of(folder / ADAPTER_FILE).tensors.items()}
    wanted = {name: tuple(tensor.shape) for name, tensor in adapter_tensors(adapted).items()}
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            raise CheckpointError(
                f"the adapter in {folder} does not fit this model: it has {name} as {found.get(name)}, and the model "
                f"needs {wanted.get(name)}.\n  Try: small.path= of the checkpoint that it was tuned beside"
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers warns of a name in it that PEFT asks for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def load_adapter(model: nn.Module, folder: Path, *, trainable: bool = False) -> Any:
    """The model with an adapter that was saved: PEFT's PeftModel."""
    peft = import_peft("adapters")
    with _quiet():
        return load_adapter_beside(model, peft.PeftModel, folder, is_trainable=trainable)


def adapter_tensors(adapted: Any, trained: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """What PEFT saves of an adapter, by its names on disk.

    Args:
        trained: what is trained, where the model itself does not hold it in full (`Engine.trained`).
    """
    peft = import_peft("adapters")
    state = None if trained is None else {**adapted.state_dict(), **trained}
    found: dict[str, Tensor] = peft.get_peft_model_state_dict(adapted, state, save_embedding_layers=False)
    return found


def save_adapter(folder: Path, adapted: Any, trained: Mapping[str, Tensor], base_model: str) -> None:
    """Write a stock PEFT folder: `PeftModel.from_pretrained(model, folder)` loads it.

    Args:
        folder: a fresh one from `folder_aside`.
        trained: `Engine.trained`.
        base_model: its hub id or name; adapter_config.json names no path of this machine.
    """
    write_weights(folder, adapter_tensors(adapted, trained).items(), shard_bytes=_ONE_SHARD)
    (folder / WEIGHTS_FILE).rename(folder / ADAPTER_FILE)
    config = copy(adapted.peft_config["default"])
    config.base_model_name_or_path, config.inference_mode = base_model, True
    with disk_errors(folder):
        config.save_pretrained(folder)


def merged(model: nn.Module, folder: Path) -> Any:
    """The stock model with an adapter added into its weights; unmerged it computes the same."""
    return load_adapter(model, folder).merge_and_unload()

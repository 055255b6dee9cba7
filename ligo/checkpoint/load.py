"""The one door through which files of others come in: every stock loader is called here, after an inspection.

`tests/trust/test_door.py` looks through the source for loaders that are called elsewhere.
"""

from __future__ import annotations

import pickle
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from ligo.checkpoint.headers import DamagedFile, Header, check_seal, read_header
from ligo.checkpoint.inspect import inspect_adapter, inspect_checkpoint, inspect_files
from ligo.core.errors import CheckpointError
from ligo.core.permissions import ALLOW_PICKLE, pickle_allowed

_OURS_ALONE: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


def load_model(stock_class: Any, folder: Path, **options: Any) -> Any:
    """`stock_class.from_pretrained(folder)`: safetensors alone, nothing from the hub, no code of the folder.

    Args:
        stock_class: of transformers.
        options: of `from_pretrained`.

    Raises:
        CheckpointError: as `inspect_checkpoint` does.
    """
    inspect_checkpoint(folder)
    return stock_class.from_pretrained(
        folder, use_safetensors=True, weights_only=True, **_OURS_ALONE, **options
    )


def load_tokenizer(folder: Path, **options: Any) -> Any:
    """The tokenizer that lies in a folder.

    Raises:
        CheckpointError: as `inspect_files` does.
        Exception: there is none, or it cannot be loaded without its own code; transformers raises many kinds.
    """
    from transformers import AutoTokenizer

    inspect_files(folder)
    return AutoTokenizer.from_pretrained(folder, **_OURS_ALONE, **options)


def load_adapter_config(config_class: Any, folder: Path) -> Any:
    """PEFT's config of an adapter.

    Raises:
        CheckpointError: as `inspect_adapter` does.
    """
    inspect_adapter(folder)
    return config_class.from_pretrained(folder)


def load_adapter_beside(model: Any, peft_class: Any, folder: Path, **options: Any) -> Any:
    """A model with an adapter that was saved: `peft_class.from_pretrained`.

    Raises:
        CheckpointError: as `inspect_adapter` does.
    """
    inspect_adapter(folder)
    return peft_class.from_pretrained(model, folder, **options)


def load_gguf(file: Path, **options: Any) -> tuple[Any, Any]:
    """The causal language model and the tokenizer in a GGUF file; what lies beside it is not looked at.

    Args:
        options: of `from_pretrained`, for the model.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with tempfile.TemporaryDirectory() as alone:
        (Path(alone) / file.name).symlink_to(file.resolve())
        given: dict[str, Any] = {"gguf_file": file.name, **_OURS_ALONE}
        model = AutoModelForCausalLM.from_pretrained(alone, **given, **options)
        return model, AutoTokenizer.from_pretrained(alone, **given)


def open_tensors(file: Path, framework: str = "pt", *, check: bool = True) -> Any:
    """A safetensors file, open: `safe_open`, once header and checksum have been checked.

    Args:
        check: False where that has been done.

    Raises:
        DamagedFile: it breaks the format, or is not what was saved.
    """
    from safetensors import SafetensorError, safe_open

    try:
        if check:
            check_tensors(file)
        return safe_open(file, framework=framework)
    except (SafetensorError, OSError) as error:
        raise DamagedFile(str(error)) from error


def check_tensors(file: Path) -> Header:
    """The header of a file, which is compared with the checksum in it where there is one: every byte is read.

    Raises:
        DamagedFile: it breaks the format, or is not what was saved.
    """
    header = read_header(file)
    check_seal(file, header)
    return header


def load_pickle(file: Path) -> Any:
    """A file of torch.save, of which only tensors and plain data are made; large tensors stay on the disk until used.

    Raises:
        CheckpointError: it was not allowed on the command line, or holds anything else.
    """
    if not pickle_allowed():
        raise CheckpointError(
            f"{file} is a pickle, a format that can run code when it is read, so ligo reads it only when told to.\n"
            f"  Try, if you trust where it comes from: {ALLOW_PICKLE} on the command line (no config file can say it)"
        )
    import torch

    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{file} cannot be read as tensors and plain numbers alone (anything else could run code): "
            f"{str(error).strip().splitlines()[0]}\n"
            "  Try: torch.save(state_dict, FILE), of tensors and plain numbers alone"
        ) from error

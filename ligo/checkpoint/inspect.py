"""Whether a folder from a stranger is what it seems, before any library opens a file in it.

Stock loaders follow an index out of the folder, follow links, and let keys and files of a folder choose other code, other
weights or another config than those that were looked at. What would lead them there is refused here, by name; so
after an inspection they read the very files that we have read, and run nothing that came along. It is enough to look once:
nothing here guards against somebody who changes the folder meanwhile.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ligo.checkpoint.hashes import check_hashes
from ligo.checkpoint.headers import DamagedFile, Header, read_header
from ligo.checkpoint.settings import check_adapter_config, check_config, check_tokenizer_settings
from ligo.checkpoint.strict_json import INDEX_BYTES, SAVE_AGAIN, read_json_object
from ligo.core.errors import CheckpointError
from ligo.core.permissions import ALLOW_PICKLE

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
ADAPTER_CONFIG, ADAPTER_FILE = "adapter_config.json", "adapter_model.safetensors"

_SMALL_JSON = (
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "preprocessor_config.json",
    "processor_config.json",
)
_TOKENIZER_BYTES = 2**26  # Gemma's tokenizer.json takes half of it
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
)
_TEMPLATES = "additional_chat_templates"

_PIECES_OF_RANKS = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")


@dataclass(frozen=True)
class Contents:
    """An inspected checkpoint folder."""

    config: dict[str, Any]
    """config.json"""
    mapped: dict[str, str]
    """Tensor -> file name, as the index says; empty without one."""
    headers: dict[Path, Header]
    """Every file of weights that is read."""


def inspect_checkpoint(folder: Path) -> Contents:
    """Look through a checkpoint folder: config.json, weights, and what is read beside them; no tensor is read.

    Raises:
        CheckpointError: a file is missing, damaged, larger than any of its kind, outside the folder, contradicts another one,
            or would lead stock loaders elsewhere; or the folder is one of ligo's and is not what was written.
    """
    inspect_files(folder)
    config = read_config(folder)
    for name, why in ((ADAPTER_CONFIG, "add the adapter to the weights"), *_pieces(folder)):
        if (folder / name).exists():
            raise CheckpointError(
                f"{folder} holds {name} beside the model, and stock loaders would {why} in passing.\n"
                "  Try: move that file to a folder of its own"
            )
    mapped, files = _weight_files(folder)
    headers = {file: header_of(file) for file in files}
    _check_index(folder, mapped, headers)
    return Contents(config, mapped, headers)


def inspect_adapter(folder: Path) -> dict[str, Any]:
    """Look through a PEFT folder; its adapter_config.json.

    Raises:
        CheckpointError: as `inspect_checkpoint` does.
    """
    inspect_files(folder)
    config = read_json_object(file_inside(folder, ADAPTER_CONFIG))
    check_adapter_config(folder / ADAPTER_CONFIG, config)
    header_of(file_inside(folder, ADAPTER_FILE))
    return config


def inspect_files(folder: Path) -> None:
    """Look at links and checksums, and at what lies beside the weights: sizes, JSON, what a tokenizer's settings ask for.

    Raises:
        CheckpointError: as `inspect_checkpoint` does.
    """
    for place in (folder, folder / _TEMPLATES):
        for file in place.glob("*"):
            if file.is_symlink():
                _check_link(folder, file)
    check_hashes(folder)  # before all else, so that the file that was changed is the one that is named
    for name in _SMALL_JSON:
        settings = read_json_object(folder / name) if (folder / name).is_file() else {}
        if name == "tokenizer_config.json":
            check_tokenizer_settings(folder / name, settings)
    for name in _TOKENIZER_FILES:
        if (folder / name).is_file() and (folder / name).stat().st_size > _TOKENIZER_BYTES:
            raise CheckpointError(
                f"{folder / name} has {(folder / name).stat().st_size:,} bytes, and no tokenizer needs more than "
                f"{_TOKENIZER_BYTES:,}.\n  {SAVE_AGAIN}"
            )


def file_inside(folder: Path, name: str) -> Path:
    """`folder / name`, once it is sure that it is a file that lies in this folder.

    Links may lead from a snapshot folder of the hub's cache into its blobs, and nowhere else.

    Raises:
        CheckpointError: there is no such file, or a link leads elsewhere.
    """
    file = folder / name
    if not file.is_file():
        raise CheckpointError(f"{folder} has no {name}.\n  {SAVE_AGAIN}")
    _check_link(folder, file)
    return file


def read_config(folder: Path) -> dict[str, Any]:
    """A checkpoint folder's config.json.

    Raises:
        CheckpointError: it is missing, no JSON object, has sizes that no model has, or leads stock loaders elsewhere.
    """
    if not (folder / CONFIG_FILE).is_file():
        gguf = next(iter(sorted(folder.glob("*.gguf"))), None)
        raise CheckpointError(
            f"{folder} has no config.json, so it is not a Hugging Face checkpoint folder.\n"
            f"  Try: small.path={gguf or 'DIR with config.json and *.safetensors'}"
        )
    file = file_inside(folder, CONFIG_FILE)
    config = read_json_object(file)
    check_config(file, config)
    return config


def header_of(file: Path) -> Header:
    """The header of a file of weights.

    Raises:
        CheckpointError: the file is damaged.
    """
    try:
        return read_header(file)
    except DamagedFile as error:
        raise CheckpointError(
            f"{file} is damaged or was not written to its end: {error}.\n  {SAVE_AGAIN}"
        ) from error


# --- weights ------------------------------------------------------------------------------------------------


def _weight_files(folder: Path) -> tuple[dict[str, str], list[Path]]:
    """What the index says (tensor -> file name; empty without an index), and the safetensors files."""
    if (folder / WEIGHTS_FILE).is_file():  # goes before an index, as in transformers
        return {}, [file_inside(folder, WEIGHTS_FILE)]
    if not (folder / INDEX_FILE).is_file():
        raise _no_weights(folder)
    index = file_inside(folder, INDEX_FILE)
    mapped = read_json_object(index, INDEX_BYTES).get("weight_map")
    if not isinstance(mapped, dict) or not mapped:
        raise CheckpointError(f"{index} has no 'weight_map'.\n  {SAVE_AGAIN}")
    for name in mapped.values():
        plain = (
            isinstance(name, str) and name.endswith(".safetensors") and not any(c in name for c in "/\\:\0")
        )
        if not plain:
            raise CheckpointError(
                f"{index} points to {name!r}, which is not the plain name of a .safetensors file in the same "
                f"folder; such an index may lead anywhere on the disk and is not followed.\n  {SAVE_AGAIN}"
            )
    return mapped, [file_inside(folder, name) for name in sorted(set(mapped.values()))]


def _check_index(folder: Path, mapped: Mapping[str, str], headers: Mapping[Path, Header]) -> None:
    """Every tensor is in one file, and where there is an index, in that which it names."""
    file_of: dict[str, Path] = {}
    for file, header in headers.items():
        for name in header.tensors:
            if name in file_of:
                raise CheckpointError(
                    f"the tensor '{name}' is in two files of {folder}: {file_of[name].name} and "
                    f"{file.name}; which one counts cannot be known.\n  {SAVE_AGAIN}"
                )
            file_of[name] = file
    for name, file_name in mapped.items():
        if name not in file_of or file_of[name].name != file_name:
            raise CheckpointError(
                f"{folder / INDEX_FILE} says that '{name}' is in {file_name}, which does not have it.\n"
                f"  {SAVE_AGAIN}"
            )
    unmapped = [name for name in file_of if mapped and name not in mapped]
    if unmapped:
        raise CheckpointError(
            f"{folder / INDEX_FILE} does not name {len(unmapped)} tensors that its files hold, '{unmapped[0]}' in "
            f"{file_of[unmapped[0]].name} for one; stock loaders would read them.\n  {SAVE_AGAIN}"
        )


def _pieces(folder: Path) -> list[tuple[str, str]]:
    """Files by whose names transformers takes a folder for one that ranks have saved in pieces."""
    return [
        (file.name, "read such pieces of ranks in place of the weights")
        for file in folder.glob("*")
        if _PIECES_OF_RANKS.fullmatch(file.name)
    ]


def _no_weights(folder: Path) -> CheckpointError:
    patterns = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
    pickles = sorted(file.name for pattern in patterns for file in folder.glob(pattern))
    if not pickles:
        return CheckpointError(
            f"{folder} has no {WEIGHTS_FILE} and no {INDEX_FILE}.\n"
            "  Try: small.path=DIR with config.json and *.safetensors"
        )
    rest = f" and {len(pickles) - 3} more" if len(pickles) > 3 else ""
    return CheckpointError(
        f"{folder} has its weights in {', '.join(pickles[:3])}{rest} and not in safetensors. Such files are pickles, "
        "which can run code when they are read, so ligo does not read them.\n"
        f"  Try, if you trust where they come from: {ALLOW_PICKLE} on the command line, which makes a folder of safetensors of a "
        "pytorch_model.bin; or load it with transformers, and save it with save_pretrained(DIR)"
    )


# --- what lies beside them ------------------------------------------------------------------------------------


def _check_link(folder: Path, file: Path) -> None:
    root, real = folder.resolve(), file.resolve()
    in_hub_cache = root.parent.name == "snapshots" and real.is_relative_to(root.parent.parent / "blobs")
    if not (real.is_relative_to(root) or in_hub_cache):
        raise CheckpointError(
            f"{file} is a link that leads out of its folder, so it is not read.\n"
            f"  Try: put a copy of the file there instead of the link"
        )

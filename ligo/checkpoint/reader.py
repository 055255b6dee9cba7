"""Read a Hugging Face checkpoint folder: shapes from the headers at once, tensors one by one when asked.

Only safetensors and JSON are read, so opening a checkpoint from a stranger runs no code of theirs. An index
is not trusted either: stock loaders follow its entries out of the folder, we do not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ligo.core.errors import CheckpointError, nearest
from ligo.core.log import say
from ligo.families.names import DiskNames, disk_names

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from ligo.families.base import Family

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint folder; names are those on disk, or those of a family once it is `named_for` it."""

    folder: Path
    config: dict[str, Any]
    """config.json"""
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    """As safetensors names them: 'F32', 'BF16', ..."""
    num_bytes: int
    """Of all tensors together."""
    _file_of: dict[str, Path] = field(repr=False)
    _names: DiskNames = field(default_factory=DiskNames, repr=False)

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Open a checkpoint folder; reads config.json and the headers, no tensor and no torch.

        Raises:
            CheckpointError: a file is missing, damaged, outside the folder, or contradicts another one.
        """
        folder = Path(folder)
        config = read_config(folder)
        mapped, files = _weight_files(folder)
        shapes: dict[str, tuple[int, ...]] = {}
        dtypes: dict[str, str] = {}
        file_of: dict[str, Path] = {}
        num_bytes = 0
        for file in files:
            for name, (shape, dtype) in _read_header(file).items():
                if name in file_of:
                    raise CheckpointError(
                        f"the tensor '{name}' is in two files of {folder}: {file_of[name].name} and "
                        f"{file.name}; which one counts cannot be known.\n  {_SAVE_AGAIN}"
                    )
                shapes[name], dtypes[name], file_of[name] = shape, dtype, file
            num_bytes += file.stat().st_size - len(_header_bytes(file))
        for name, file_name in mapped.items():
            if name not in file_of or file_of[name].name != file_name:
                raise CheckpointError(
                    f"{folder / INDEX_FILE} says that '{name}' is in {file_name}, which does not have it.\n"
                    f"  {_SAVE_AGAIN}"
                )
        return cls(folder, config, shapes, dtypes, num_bytes, file_of)

    def named_for(self, family: Family) -> Checkpoint:
        """The same with names as in the family's table, and without what the model does not need.

        Raises:
            CheckpointError: a tensor is there twice.
        """
        names = disk_names(self.shapes, family)
        return replace(
            self,
            shapes={name: self.shapes[disk] for name, disk in names.on_disk.items()},
            dtypes={name: self.dtypes[disk] for name, disk in names.on_disk.items()},
            _names=names,
        )

    def read(self, name: str) -> torch.Tensor:
        """The tensor under `name`, in its stored dtype, on the CPU; shape as in `shapes`.

        Raises:
            CheckpointError: there is no such tensor.
        """
        if name not in self.shapes:
            close = nearest(name, self.shapes)
            raise CheckpointError(
                f"there is no tensor '{name}' in {self.folder}."
                + (f"\n  The nearest name is '{close}'." if close else "")
            )
        return self._read(self._names.on_disk.get(name, name))

    def _read(self, on_disk: str) -> torch.Tensor:
        from safetensors import safe_open

        with safe_open(self._file_of[on_disk], framework="pt") as file:
            return file.get_tensor(on_disk)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that lies in the folder; code that it may bring along is never run.

        Raises:
            CheckpointError: there is none, or it cannot be loaded without its own code.
        """
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:
            raise CheckpointError(
                f"the tokenizer of {self.folder} cannot be loaded: {_first_line(error)}\n"
                "  Try: put the tokenizer.json and tokenizer_config.json of this model into the folder"
            ) from error

    def fingerprint(self) -> str:
        """SHA-256 over config.json, all headers and samples of the tensors' bytes; milliseconds at any size.

        It tells two checkpoints of one run apart, but is no checksum: not every byte is looked at.
        """
        digest = hashlib.sha256((self.folder / "config.json").read_bytes())
        for file in sorted(set(self._file_of.values())):
            digest.update(file.name.encode() + _header_bytes(file))
            size = file.stat().st_size
            with open(file, "rb") as handle:
                for sample in range(64):
                    handle.seek(size * sample // 64)
                    digest.update(handle.read(4096))
        return digest.hexdigest()

    def expect(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Check that these tensors are here, that they have these shapes, and that there are no others.

        What was left out because the model does not need it is said.

        Raises:
            CheckpointError: the first few that are missing, not expected, or of another shape; or a tensor is not
                equal to the one that it is tied to.
        """
        here = self.shapes
        missing = [name for name in shapes if name not in here]
        extra = [name for name in here if name not in shapes]
        misshaped = [
            f"{name} is {here[name]}, not {tuple(shape)}"
            for name, shape in shapes.items()
            if name in here and here[name] != tuple(shape)
        ]
        found = {"missing": missing, "not expected": extra, "of another shape": misshaped}
        if not any(found.values()):
            self._check_copies()
            self._say_what_is_left_out()
            return
        lines = [f"  {what}: {_first_few(names)}" for what, names in found.items() if names]
        stock_class = (self.config.get("architectures") or ["AutoModelForCausalLM"])[0]
        raise CheckpointError(
            f"the tensors in {self.folder} are not those of a model with its config.json:\n"
            + "\n".join(lines)
            + f"\n  Try: load it with {stock_class}.from_pretrained, save it with save_pretrained(DIR), then "
            "small.path=DIR"
        )

    def _check_copies(self) -> None:
        for on_disk, name in self._names.copies.items():
            tensor = self.read(name)
            if not self._read(on_disk).to(tensor.dtype).equal(tensor):
                raise CheckpointError(
                    f"config.json says that '{on_disk}' is tied to '{name}', and in {self.folder} they differ.\n"
                    '  Try: "tie_word_embeddings": false in its config.json'
                )

    def _say_what_is_left_out(self) -> None:
        for why in dict.fromkeys(self._names.left_out.values()):
            names = [name for name, reason in self._names.left_out.items() if reason == why]
            say(f"left out of {self.folder.name}: {_first_few(names, 1)} ({why})")


_SAVE_AGAIN = "Try: download the checkpoint again, or save it again with save_pretrained"


def file_inside(folder: Path, name: str) -> Path:
    """`folder / name`, once it is sure that it is a file that lies in this folder.

    Links may lead from a snapshot folder of the hub's cache into its blobs, and nowhere else.

    Raises:
        CheckpointError: there is no such file, or a link leads elsewhere.
    """
    file, root = folder / name, folder.resolve()
    if not file.is_file():
        raise CheckpointError(f"{folder} has no {name}.\n  {_SAVE_AGAIN}")
    real = file.resolve()
    in_hub_cache = root.parent.name == "snapshots" and real.is_relative_to(root.parent.parent / "blobs")
    if not (real.parent == root or in_hub_cache):
        raise CheckpointError(
            f"{file} is a link that leads out of its folder, so it is not read.\n"
            f"  Try: put a copy of the file there instead of the link"
        )
    return file


def read_config(folder: Path) -> dict[str, Any]:
    """A checkpoint folder's config.json.

    Raises:
        CheckpointError: it is missing or no JSON object.
    """
    if not (folder / "config.json").is_file():
        gguf = next(iter(sorted(folder.glob("*.gguf"))), None)
        raise CheckpointError(
            f"{folder} has no config.json, so it is not a Hugging Face checkpoint folder.\n"
            f"  Try: small.path={gguf or 'DIR with config.json and *.safetensors'}"
        )
    return read_json_object(file_inside(folder, "config.json"))


def read_json_object(file: Path) -> dict[str, Any]:
    """A JSON object; a key given twice is refused, because readers differ in which one they take."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) != len(pairs):
            raise ValueError("a key is there twice")
        return value

    try:
        value = json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=once)
        if not isinstance(value, dict):
            raise ValueError("it is not an object")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not readable JSON: {error}.\n  {_SAVE_AGAIN}") from error
    return value


def _weight_files(folder: Path) -> tuple[dict[str, str], list[Path]]:
    """What the index says (tensor -> file name; empty without an index), and the safetensors files."""
    if (folder / WEIGHTS_FILE).is_file():  # goes before an index, as in transformers
        return {}, [file_inside(folder, WEIGHTS_FILE)]
    if not (folder / INDEX_FILE).is_file():
        raise _no_weights(folder)
    index = file_inside(folder, INDEX_FILE)
    mapped = read_json_object(index).get("weight_map")
    if not isinstance(mapped, dict) or not mapped:
        raise CheckpointError(f"{index} has no 'weight_map'.\n  {_SAVE_AGAIN}")
    for name in mapped.values():
        plain = (
            isinstance(name, str) and name.endswith(".safetensors") and not any(c in name for c in "/\\:\0")
        )
        if not plain:
            raise CheckpointError(
                f"{index} points to {name!r}, which is not the plain name of a .safetensors file in the same "
                f"folder; such an index may lead anywhere on the disk and is not followed.\n  {_SAVE_AGAIN}"
            )
    return mapped, [file_inside(folder, name) for name in sorted(set(mapped.values()))]


def _no_weights(folder: Path) -> CheckpointError:
    pickles = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in folder.glob(pattern))
    if not pickles:
        return CheckpointError(
            f"{folder} has no {WEIGHTS_FILE} and no {INDEX_FILE}.\n"
            "  Try: small.path=DIR with config.json and *.safetensors"
        )
    return CheckpointError(
        f"{folder} has its weights in {_first_few(pickles)} and not in safetensors. Such files are pickles, "
        "which can run code when they are read, so ligo does not read them.\n"
        "  Try, if you trust where they come from:\n"
        f"    python -c \"from transformers import AutoModelForCausalLM as M; M.from_pretrained('{folder}')"
        f".save_pretrained('{folder}')\""
    )


def _read_header(file: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Tensor -> (shape, dtype). The library checks that header and file length agree."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as handle:
            slices = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118 - not a dict
            return {name: (tuple(s.get_shape()), str(s.get_dtype())) for name, s in slices.items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{file} is damaged or was not written to its end: {_first_line(error)}.\n  {_SAVE_AGAIN}"
        ) from error


def _header_bytes(file: Path) -> bytes:
    with open(file, "rb") as handle:
        length = handle.read(8)
        return length + handle.read(int.from_bytes(length, "little"))


def _first_few(names: list[str], how_many: int = 3) -> str:
    rest = len(names) - how_many
    return ", ".join(names[:how_many]) + (f" and {rest} more" if rest > 0 else "")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")

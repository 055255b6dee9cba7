"""Read a Hugging Face checkpoint folder: shapes from the headers at once, tensors one by one when asked.

Only safetensors and JSON are read, and only after `checkpoint.inspect` has looked through the folder, so opening a
checkpoint from a stranger runs no code of theirs and reads nothing outside it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ligo.checkpoint.headers import Header
from ligo.checkpoint.inspect import (
    CONFIG_FILE,
    INDEX_FILE,
    WEIGHTS_FILE,
    file_inside,
    inspect_checkpoint,
    read_config,
)
from ligo.checkpoint.load import load_tokenizer, open_tensors
from ligo.checkpoint.strict_json import read_json_object
from ligo.core.errors import CheckpointError, nearest
from ligo.core.log import say
from ligo.families.base import family_of
from ligo.families.names import DiskNames, disk_names

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from ligo.families.base import Family

__all__ = ["INDEX_FILE", "WEIGHTS_FILE", "Checkpoint", "file_inside", "read_config", "read_json_object"]

_FLOATS = frozenset({"F16", "BF16", "F32", "F64"})
_MOST_TIMES = 100
"""More parameters than this times those in the files are no slip of a head or a table."""


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
    _headers: dict[Path, Header] = field(repr=False)
    _file_of: dict[str, Path] = field(repr=False)
    _names: DiskNames = field(default_factory=DiskNames, repr=False)

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Open a checkpoint folder; reads config.json and the headers, no tensor and no torch.

        A folder that ligo wrote is compared with its checksums, for which its files are read once.

        Raises:
            CheckpointError: as `inspect_checkpoint` does, or the weights are packed, or config.json describes a model that the
                files cannot hold.
        """
        folder = Path(folder)
        contents = inspect_checkpoint(folder)
        entries = {
            name: entry for header in contents.headers.values() for name, entry in header.tensors.items()
        }
        checkpoint = cls(
            folder,
            contents.config,
            {name: entry.shape for name, entry in entries.items()},
            {name: entry.dtype for name, entry in entries.items()},
            sum(header.num_bytes for header in contents.headers.values()),
            contents.headers,
            {name: file for file, header in contents.headers.items() for name in header.tensors},
        )
        checkpoint._check_size()
        return checkpoint

    def _check_size(self) -> None:
        """Compare the model that config.json describes with the files, before anything is built by it."""
        if self.config.get("quantization_config") is not None:
            raise CheckpointError(
                f"{self.folder / CONFIG_FILE} has a quantization_config: its weights are packed, and cannot be computed "
                "with as they are.\n  Try: the checkpoint that it was quantised from"
            )
        try:
            family = family_of(self.config)
        except CheckpointError:
            return  # whoever needs the family says so
        held = sum(map(math.prod, self.shapes.values()))
        dims = family.dims
        blocks = dims.num_layers * max(
            1, dims.num_experts
        )  # looked at first: the table has a row for each of their tensors
        if blocks > len(self.shapes) or family.num_parameters > _MOST_TIMES * held:
            described = f"{dims.num_layers:,} layers of width {dims.hidden_size:,}"
            raise CheckpointError(
                f"{self.folder / CONFIG_FILE} describes {described}, and the files hold {len(self.shapes):,} tensors "
                f"of {held:,} numbers in all.\n  Try: the config.json that belongs to these weights"
            )

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
        with open_tensors(self._file_of[on_disk], check=False) as file:  # checked when it was opened
            return file.get_tensor(on_disk)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that lies in the folder; code that it may bring along is never run.

        Raises:
            CheckpointError: there is none, or it cannot be loaded without its own code.
        """
        try:
            return load_tokenizer(self.folder)
        except CheckpointError:
            raise
        except Exception as error:
            raise CheckpointError(
                f"the tokenizer of {self.folder} cannot be loaded: {_first_line(error)}\n"
                "  Try: put the tokenizer.json and tokenizer_config.json of this model into the folder"
            ) from error

    def fingerprint(self) -> str:
        """SHA-256 over config.json, all headers and samples of the tensors' bytes; milliseconds at any size.

        It tells two checkpoints of one run apart, but is no checksum: not every byte is looked at.
        """
        digest = hashlib.sha256((self.folder / CONFIG_FILE).read_bytes())
        for file in sorted(set(self._file_of.values())):
            digest.update(file.name.encode() + self._headers[file].content)
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
            CheckpointError: the first few that are missing, not expected, of another shape, or no floating-point numbers; or
                a tensor is not equal to the one that it is tied to.
        """
        here = self.shapes
        missing = [name for name in shapes if name not in here]
        extra = [name for name in here if name not in shapes]
        misshaped = [
            f"{name} is {here[name]}, not {tuple(shape)}"
            for name, shape in shapes.items()
            if name in here and here[name] != tuple(shape)
        ]
        packed = [
            f"{name} is {self.dtypes[name]}"
            for name in shapes
            if name in here and self.dtypes[name] not in _FLOATS
        ]
        found = {
            "missing": missing,
            "not expected": extra,
            "of another shape": misshaped,
            "no floating-point numbers": packed,
        }
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


def _first_few(names: list[str], how_many: int = 3) -> str:
    rest = len(names) - how_many
    return ", ".join(names[:how_many]) + (f" and {rest} more" if rest > 0 else "")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")

"""The state of an engine on disk, in safetensors alone: either engine reads it, at any ZeRO stage, on any number of ranks.

Parameters and what the optimiser keeps for them are saved flat, in float32 where the optimiser steps float32 copies,
and in the stretches that the ranks hold: every rank writes one file, whose metadata say which stretch of which
parameter is in it. A rank that loads reads from all files what falls into its own stretches. So no rank ever
holds the whole model because of a checkpoint, and nothing has to be unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ligo.checkpoint.load import open_tensors
from ligo.checkpoint.stream import append_tensors
from ligo.core.errors import CheckpointError
from ligo.core.files import from_json

WEIGHT = "weight"
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.uint8: "U8",
}


@dataclass(frozen=True)
class Stretch:
    """Consecutive elements of one parameter, and where they lie in a flat tensor that a rank holds."""

    name: str
    """Of the parameter, in the running model."""
    shape: tuple[int, ...]
    """Of the whole parameter."""
    start: int
    """First element, in the flattened parameter."""
    offset: int
    """First element, in the flat tensor."""
    length: int


@dataclass(frozen=True)
class Held:
    """A tensor of weights that a rank steps, with the optimiser's state for it."""

    weights: Tensor
    """Contiguous; of one parameter, or of several one after another."""
    state: dict[str, Any]
    """As torch's optimisers keep it: tensors like the weights, single numbers, and others."""
    stretches: tuple[Stretch, ...]
    replicated: bool = False
    """Whether every rank holds the same; each then saves its share."""


def write_state(
    file: Path, held: Iterable[Held], *, rank: int, world_size: int, extra: dict[str, Any]
) -> str:
    """Write what this rank holds, have it on the disk, and give the SHA-256 of the file, in hex.

    Args:
        extra: plain numbers that belong to the engine as a whole.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    entries: dict[str, tuple[str, tuple[int, ...]]] = {}
    tensors: list[Tensor] = []
    parameters: dict[str, Any] = {}

    def add(name: str, tensor: Tensor) -> None:
        entries[name] = (_DTYPES[tensor.dtype], tuple(tensor.shape))
        tensors.append(tensor)

    for number, one in enumerate(held):
        flat = {WEIGHT: one.weights.detach().reshape(-1)} | {
            key: value.reshape(-1) for key, value in one.state.items() if _is_like(value, one.weights)
        }
        for whole in one.stretches:
            stretch = _share(whole, rank, world_size) if one.replicated else whole
            parameters[whole.name] = {
                "shape": whole.shape,
                "start": stretch.start,
                "length": stretch.length,
                "numbers": {key: _as_json(v) for key, v in one.state.items() if _is_number(v)},
            }
            for key, tensor in flat.items():
                add(f"{key}.{stretch.name}", tensor[stretch.offset :][: stretch.length])
        for key, value in one.state.items():
            if isinstance(value, Tensor) and not _is_like(value, one.weights) and not _is_number(value):
                add(f"own.{number}.{key}", value)
    metadata = {"format": "pt", "parameters": json.dumps(parameters), "extra": json.dumps(extra)}
    return append_tensors(file, entries, iter(tensors), metadata)


def read_state(files: list[Path], held: Iterable[Held], *, rank: int) -> dict[str, Any]:
    """Fill what this rank holds from the files of all ranks that saved; gives the `extra` of the first.

    Raises:
        CheckpointError: a parameter is missing or has another shape, or the optimiser keeps something that cannot be
            dealt out to other ranks than those that saved it.
    """
    saved = SavedState(files)
    for number, one in enumerate(held):
        weights = one.weights.detach().reshape(-1)
        kept = dict(one.state)
        one.state.clear()
        for stretch in one.stretches:
            if stretch.shape != saved.shape(stretch.name):
                raise CheckpointError(
                    f"the checkpoint holds {stretch.name} as {saved.shape(stretch.name)}, and the model has it as "
                    f"{stretch.shape}.\n  Try: the checkpoint of this very run"
                )
            weights[stretch.offset :][: stretch.length] = saved.read(WEIGHT, stretch).to(weights)
            for key in saved.keys_of(stretch.name):
                found = saved.read(key, stretch)
                if key not in one.state:
                    there = kept.get(key)
                    fits = isinstance(there, Tensor) and there.shape == one.weights.shape
                    one.state[key] = (
                        there
                        if fits
                        else torch.zeros_like(one.weights, dtype=found.dtype, requires_grad=False)
                    )
                one.state[key].reshape(-1)[stretch.offset :][: stretch.length] = found.to(one.weights.device)
            one.state.update(
                (key, number.to(one.weights.device) if isinstance(number, Tensor) else number)
                for key, number in saved.numbers(stretch.name).items()
            )  # fused steps read them there
        one.state.update(saved.own(number, one, rank))
    return saved.extra


class SavedState:
    """The files of all ranks as one: parameters by name, read by stretches."""

    def __init__(self, files: list[Path]) -> None:
        self._files = [open_tensors(file) for file in files]
        metadata = [file.metadata() for file in self._files]
        self._parameters: list[dict[str, Any]] = [from_json(each["parameters"]) for each in metadata]
        self.extra: dict[str, Any] = from_json(metadata[0]["extra"])
        self._keys: dict[str, list[str]] = {}
        for file in self._files:
            for entry in file.keys():  # noqa: SIM118 - not a dict
                key, _, name = entry.partition(".")
                known = self._keys.setdefault(name, [])
                if key not in (WEIGHT, "own", *known):
                    known.append(key)

    def names(self) -> list[str]:
        """All parameters."""
        return list(dict.fromkeys(name for each in self._parameters for name in each))

    def keys_of(self, name: str) -> list[str]:
        """What the optimiser keeps for every element of a parameter: exp_avg, say."""
        return self._keys.get(name, [])

    def shape(self, name: str) -> tuple[int, ...]:
        """
        Raises:
            CheckpointError: the parameter is not there.
        """
        return tuple(self._entry(name)["shape"])

    def numbers(self, name: str) -> dict[str, Any]:
        """What the optimiser keeps for the parameter as a whole: the steps taken, say."""
        return {key: _from_json(value) for key, value in self._entry(name)["numbers"].items()}

    def whole(self, key: str, name: str) -> Tensor:
        """A tensor of a parameter in its full shape."""
        shape = self.shape(name)
        length = torch.Size(shape).numel()
        return self.read(key, Stretch(name, shape, 0, 0, length)).reshape(shape)

    def read(self, key: str, wanted: Stretch) -> Tensor:
        """Some elements of a parameter, flat.

        Raises:
            CheckpointError: the files do not hold all of them.
        """
        pieces, position = [], wanted.start
        stop = wanted.start + wanted.length
        for start, length, file in self._places(wanted.name):
            first, last = max(position, start), min(stop, start + length)
            if first == position and first < last:
                pieces.append(file.get_slice(f"{key}.{wanted.name}")[first - start : last - start])
                position = last
        if position != stop:
            raise CheckpointError(
                f"the checkpoint lacks elements {position} to {stop} of {key} of {wanted.name}.\n"
                "  Try: an earlier checkpoint"
            )
        return torch.cat(pieces) if len(pieces) != 1 else pieces[0]

    def own(self, number: int, held: Held, rank: int) -> dict[str, Tensor]:
        """Tensors that are neither like the weights nor single numbers, for the same rank holding the same again.

        Raises:
            CheckpointError: there are some, and this rank holds something else.
        """
        prefix = f"own.{number}."
        names = {entry for file in self._files for entry in file.keys() if entry.startswith(prefix)}  # noqa: SIM118
        if not names:
            return {}
        mine = self._parameters[rank] if rank < len(self._parameters) else {}
        for stretch in held.stretches:
            there = mine.get(stretch.name, {"start": None, "length": None})
            if not held.replicated and (there["start"], there["length"]) != (stretch.start, stretch.length):
                raise CheckpointError(
                    f"this optimiser keeps {', '.join(sorted(n.removeprefix(prefix) for n in names))} for what a rank "
                    f"holds as a whole, which cannot be dealt out anew: {len(self._files)} rank(s) saved it.\n"
                    "  Try: as many ranks, and the same ZeRO stage, as before"
                )
        file = self._files[rank % len(self._files)]
        return {name.removeprefix(prefix): file.get_tensor(name).to(held.weights.device) for name in names}

    def _entry(self, name: str) -> dict[str, Any]:
        for each in self._parameters:
            if name in each:
                return dict(each[name])
        raise CheckpointError(f"the checkpoint does not hold {name}.\n  Try: the checkpoint of this very run")

    def _places(self, name: str) -> Iterator[tuple[int, int, Any]]:
        """(first element, number of elements, file), from the first element on."""
        places = [
            (each[name]["start"], each[name]["length"], file)
            for each, file in zip(self._parameters, self._files, strict=True)
            if name in each
        ]
        ordered = sorted(places, key=lambda place: place[:2])
        return (next(same) for _, same in groupby(ordered, key=lambda place: place[:2]))


def _is_like(value: Any, weights: Tensor) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and value.numel() == weights.numel()


def _is_number(value: Any) -> bool:
    return isinstance(value, (bool, int, float)) or (isinstance(value, Tensor) and value.ndim == 0)


def _as_json(value: Any) -> Any:
    if isinstance(value, Tensor):
        return {"dtype": str(value.dtype).removeprefix("torch."), "value": value.item()}
    return value


def _from_json(value: Any) -> Any:
    if isinstance(value, dict):
        return torch.tensor(value["value"], dtype=getattr(torch, value["dtype"]))
    return value


def _share(stretch: Stretch, rank: int, world_size: int) -> Stretch:
    """The part of a stretch that one of many ranks saves."""
    first, last = (stretch.length * r // world_size for r in (rank, rank + 1))
    return replace(stretch, start=stretch.start + first, offset=stretch.offset + first, length=last - first)

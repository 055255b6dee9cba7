"""The frozen small model while an operator is learned: one class for each way to hold it.

A tensor is given in float32 for as long as it is used, so no float copy of the model adds up. What has no matrix
(norms, biases) is always held in float32: it is a thousandth of the whole, and is read most often.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from ligo.core import distributed
from ligo.core.errors import CheckpointError, require
from ligo.core.log import progress
from ligo.families.base import Family
from ligo.families.spec import TensorSpec
from ligo.growth.execute import ReadTensor
from ligo.learning.config import LearnConfig

Held = dict[str, Tensor]
"""What is kept of one tensor, by the name of the part."""

BLOCK = 64  # numbers that share a scale; the scales themselves are quantised by 256 (QLoRA, arXiv 2305.14314)
_FLOATS = ("F64", "F32", "F16", "BF16")


class SmallStore(Protocol):
    """The small model's tensors by name, in float32, on the device that learning runs on."""

    def read(self, name: str) -> Tensor: ...


class _Store(ABC):
    """Holds what `mine` says of the tensors of a model."""

    def __init__(
        self, family: Family, read: ReadTensor, device: torch.device, mine: Callable[[TensorSpec], bool]
    ) -> None:
        """
        Args:
            read: gives each tensor as it is stored, on the CPU.
        """
        self.device, self._family, self._read_stored = device, family, read
        self.held: dict[str, Held] = {}
        with progress("reading the small model", len(family.tensors)) as bar:
            for spec in family.tensors:
                if mine(spec):
                    self.held[spec.name] = self._hold(spec)
                bar.advance()

    def read(self, name: str) -> Tensor:
        return self.restore(name, self.held[name])

    def _hold(self, spec: TensorSpec) -> Held:
        if len(spec.axes) == 1:
            return {"values": self._stored(spec.name)}
        return self.hold_matrix(spec)

    def _stored(self, name: str, dtype: torch.dtype = torch.float32) -> Tensor:
        return self._read_stored(name).to(self.device, dtype)

    @abstractmethod
    def hold_matrix(self, spec: TensorSpec) -> Held: ...

    def restore(self, name: str, held: Held) -> Tensor:
        return held["values"].float()


class Floats(_Store):
    """In float32, or in bfloat16."""

    dtype = torch.float32

    def hold_matrix(self, spec: TensorSpec) -> Held:
        return {"values": self._stored(spec.name, self.dtype)}


class HalfFloats(Floats):
    dtype = torch.bfloat16


class NF4(_Store):
    """Matrices of layers in 4-bit NormalFloat with scales quantised as well, as QLoRA holds its frozen model
    (Dettmers et al., NeurIPS 2023, arXiv 2305.14314); embeddings and heads in bfloat16, also as there."""

    def hold_matrix(self, spec: TensorSpec) -> Held:
        if not is_quantised(spec):
            return {"values": self._stored(spec.name, torch.bfloat16)}
        # as one row of whole blocks: the CPU kernel of bitsandbytes 0.50.2 takes the wrong scales for some lengths of
        # rows (32, 48, 96), and compiles one for each odd shape
        flat = self._stored(spec.name).flatten()
        row = F.pad(flat, (0, -len(flat) % BLOCK))
        packed, state = bitsandbytes_functions().quantize_4bit(
            row, blocksize=BLOCK, compress_statistics=True, quant_type="nf4"
        )
        parts: Held = {"packed": packed, **state.as_dict(packed=True)}
        return {part: tensor.to(self.device) for part, tensor in parts.items()}

    def restore(self, name: str, held: Held) -> Tensor:
        if "packed" not in held:
            return super().restore(name, held)
        functional = bitsandbytes_functions()
        parts = {part: tensor for part, tensor in held.items() if part != "packed"}
        state = functional.QuantState.from_dict(parts, device=self.device)
        row: Tensor = functional.dequantize_4bit(held["packed"], state).flatten()
        shape = self._family.by_name[name].shape(self._family.spaces)
        return row[: math.prod(shape)].view(shape)


class Offload(_Store):
    """Matrices are not held: each is read from its file when it is used."""

    def hold_matrix(self, spec: TensorSpec) -> Held:
        return {}

    def restore(self, name: str, held: Held) -> Tensor:
        return held["values"] if held else self._stored(name)


class Sharded:
    """Of layers, each rank holds one in as many as there are ranks, and sends it to all when they use it.

    So all ranks must read the same tensors in the same order, in backward passes too. What is in no layer every
    rank holds.
    """

    def __init__(self, way: type[_Store], family: Family, read: ReadTensor, device: torch.device) -> None:
        self._owner = {spec.name: self._owner_of(spec) for spec in family.tensors}
        rank = distributed.rank()
        self._store = way(family, read, device, lambda spec: self._owner[spec.name] in (None, rank))
        mine = {
            name: {part: (tensor.shape, tensor.dtype) for part, tensor in held.items()}
            for name, held in self._store.held.items()
        }
        everyones: list[Any] = [None] * distributed.world_size()
        dist.all_gather_object(everyones, mine)
        self._forms = {name: form for one in everyones for name, form in one.items()}

    @staticmethod
    def _owner_of(spec: TensorSpec) -> int | None:
        if spec.layer is None or len(spec.axes) == 1:
            return None
        return spec.layer % distributed.world_size()

    def read(self, name: str) -> Tensor:
        owner = self._owner[name]
        if owner is None:
            return self._store.read(name)
        if owner == distributed.rank():
            held = self._store.held[name]
        else:
            held = {
                part: torch.empty(shape, dtype=dtype, device=self._store.device)
                for part, (shape, dtype) in self._forms[name].items()
            }
        for tensor in held.values():
            dist.broadcast(tensor, owner)
        return self._store.restore(name, held)


WAYS: Mapping[str, type[_Store]] = {"fp32": Floats, "bf16": HalfFloats, "nf4": NF4, "offload": Offload}
"""`learn.small`"""


def open_store(config: LearnConfig, family: Family, read: ReadTensor, device: torch.device) -> SmallStore:
    """The small model held as `learn.small` and `learn.shard_small` say; never whole in float32 but for `fp32`.

    Args:
        family: of the small model.
        read: gives each tensor as it is stored, on the CPU.
    """
    if config.shard_small and distributed.world_size() > 1:
        return Sharded(WAYS[config.small], family, read, device)
    return WAYS[config.small](family, read, device, lambda spec: True)


def is_quantised(spec: TensorSpec) -> bool:
    """Whether NF4 holds a tensor in 4 bits: a matrix of a layer."""
    return spec.layer is not None and len(spec.axes) == 2


def check_quantisable(family: Family, dtypes: Mapping[str, str]) -> None:
    """Refuse a small model whose layers cannot be held in NF4.

    Args:
        dtypes: as stored, by name, as safetensors names them.

    Raises:
        CheckpointError: a matrix is not of floating point numbers, or none has a whole block of them.
    """
    matrices = [spec for spec in family.tensors if is_quantised(spec)]
    for spec in matrices:
        if dtypes[spec.name] not in _FLOATS:
            raise CheckpointError(
                f"learn.small=nf4 quantises float matrices, and {spec.name} is stored as {dtypes[spec.name]}.\n"
                "  Try: a checkpoint that is not quantised already, or learn.small=offload"
            )
    largest = max((spec.num_elements(family.spaces) for spec in matrices), default=0)
    if largest < BLOCK:
        raise CheckpointError(
            f"learn.small=nf4 quantises the matrices of layers in blocks of {BLOCK} numbers, and the largest in this "
            f"small model has {largest}.\n  Try: learn.small=fp32"
        )


def bitsandbytes_functions() -> Any:
    """bitsandbytes' functions; at import it remarks on an inference kernel that learning does not use."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    return require("bitsandbytes.functional", extra="nf4", why="learn.small=nf4")

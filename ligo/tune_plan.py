"""What tuning will hold on each rank, before any weight is read and without such a machine.

Frozen weights are counted, in 4 bits where they are held so; what is trained is held as in any training
(`accounting.memory`); what a step keeps is traced from the stock module with PEFT's adapter in it (`ligo.steps`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from itertools import islice
from typing import Any

import torch
from torch import nn

from ligo.accounting.hardware import HardwareConfig, has_gpu, rank_memory
from ligo.accounting.memory import STAGES, Memory, Trained, training_memory, zero_keys
from ligo.core import units
from ligo.core.distributed import world_size
from ligo.core.errors import ResourceError
from ligo.families.base import Family
from ligo.families.stock import skeleton
from ligo.steps import StepCost, extrapolated, few_layers, model_step, with_layers
from ligo.tuning.adapters import add_adapter, is_linear, peft_config
from ligo.tuning.batches import VALIDATION_ROWS
from ligo.tuning.config import TuneTrainConfig, TuningConfig

_NF4_BITS = 4 + 32 / 64
_NF4_TWICE_BITS = 4 + 8 / 64 + 32 / (64 * 256)
"""A scale for 64 weights: in float32, or in 8 bits with one of its own for 256 scales (arXiv 2305.14314, section 3)."""
_MOMENTS = {"adamw8bit": 2, "paged_adamw": 0, "paged_adamw8bit": 0}
"""Bytes of both moments of a parameter where they are not 8; what is paged gives way to all else, into the CPU's memory."""


class TuningPlan:
    """One way to tune one model on one kind of machine."""

    def __init__(
        self, family: Family, tuning: TuningConfig, train: TuneTrainConfig, *, max_length: int,
        deepspeed: Mapping[str, Any], hardware: HardwareConfig,
    ) -> None:  # fmt: skip
        self._family, self._tuning, self._train, self._length = family, tuning, train, max_length
        self._zero, self._hardware = zero_keys(deepspeed), hardware
        self._ranks, self._on_gpu = hardware.count or world_size(), has_gpu(hardware)
        self._traced: dict[Any, StepCost] = {}

    @cached_property
    def trained(self) -> int:
        """Parameters that are trained."""
        return sum(_sizes(_adapted(self._family, self._tuning)))

    @cached_property
    def memory(self) -> Memory:
        """Of a rank, in the phase in which it holds the most."""
        return self._memory(self._tuning, self._train, self._zero["stage"])

    @cached_property
    def capacity(self) -> float | None:
        """Bytes that a rank may hold; None: not known."""
        return rank_memory(self._hardware, self._ranks)

    def text(self, name: str) -> str:
        """The plan for a person to read.

        Args:
            name: of the checkpoint.
        """
        base = "" if self._tuning.quantization == "none" else f", base in {self._tuning.quantization}"
        each = "" if self.capacity is None else f" with {units.num_bytes(self.capacity)} each"
        lines = [
            f"Tuning plan: {name}, {self._tuning.method}{base}",
            f"  parameters  {self.trained:,} trained; the checkpoint has {self._family.num_parameters:,}",
            f"  machine     {self._ranks} x {self._hardware.name}{each}",
            f"  {'per rank':<10}" + "".join(f"{head:>12}" for head in [*Memory().parts, "peak"]) + "  at",
        ]
        for engine, memory in self._engines():
            cells = [*memory.parts.values(), memory.peak]
            cut = "".join(f"{units.num_bytes(cell) if cell else '':>12}" for cell in cells)
            over = "" if self._fits(memory) else "  (does not fit)"
            lines.append(f"  {engine:<10}{cut}  {memory.phase}{over}")
        if self._train.optimizer.startswith("paged"):
            lines.append("  moments are not counted: paged, they give way to all else")
        return "\n".join(lines)

    def check(self) -> None:
        """Refuse what the machine's memory does not hold.

        Raises:
            ResourceError: what a rank needs and what there is, and which options would make it fit.
        """
        if self._fits(self.memory):
            return
        assert self.capacity is not None
        fitting = (way for way in self._ways() if self._fits(way[1]))
        ways = [f"{words} ({units.num_bytes(memory.peak)})" for words, memory in islice(fitting, 2)]
        raise ResourceError(
            f"tuning needs {units.num_bytes(self.memory.peak)} on each rank ({self.memory.phase}), and "
            f"{self._hardware.name} has {units.num_bytes(self.capacity)}.\n"
            "  Try: " + (" or ".join(ways) or "a smaller checkpoint; no option that there is makes it fit")
        )

    def _fits(self, memory: Memory) -> bool:
        return self.capacity is None or memory.peak <= self.capacity

    def _engines(self) -> Iterator[tuple[str, Memory]]:
        """The engine that was asked for, then DeepSpeed's other stages."""
        if self._train.engine == "torch":
            yield "torch", self.memory
            return
        now = self._zero["stage"]
        yield f"zero{now}", self.memory
        for stage in STAGES:
            drifts = stage == 3 and self._tuning.quantization == "nf4" and not self._tuning.force_zero3
            if stage != now and not drifts:
                yield f"zero{stage}", self._memory(self._tuning, self._train, stage)

    def _ways(self) -> Iterator[tuple[str, Memory]]:
        """Other options, the least change first, and what a rank would hold with each."""
        one: dict[str, Any] = {"micro_batch_size": 1}
        again: dict[str, Any] = {"activation_checkpointing": "full"}
        for change in (one, again, one | again):
            words = " ".join(f"train.{key}={value}" for key, value in change.items())
            yield words, self._memory(self._tuning, replace(self._train, **change), self._zero["stage"])
        if self._tuning.method != "full" and self._tuning.quantization == "none":
            least, stage = replace(self._train, **one, **again), min(self._zero["stage"], 2)
            words += f" tuning=q{self._tuning.method} deepspeed=zero{stage}"
            yield words, self._memory(replace(self._tuning, quantization="nf4"), least, stage)

    def _memory(self, tuning: TuningConfig, train: TuneTrainConfig, stage: int) -> Memory:
        sharded = train.engine == "deepspeed" and stage == 3
        per_rank = max(1, train.batch_size // self._ranks)
        examples = min(train.micro_batch_size or per_rank, per_rank)
        frozen, trained = _dtypes(tuning, train, sharded)
        model = _adapted(self._family, tuning)
        sizes = _sizes(model)
        beside, in_passing = _frozen(model, tuning, frozen.itemsize)
        step = self._step(tuning, train, frozen, trained, examples)
        evaluation = self._step(tuning, train, frozen, trained, VALIDATION_ROWS, learns=False)
        memory = training_memory(
            Trained(
                parameters=sum(sizes),
                largest_parameter=max(sizes),
                activations=step.activations_bytes + in_passing,
                activations_and_gradients=step.peak_bytes + in_passing,
                gradients_then=step.gradients_at_peak_bytes,
                evaluation=evaluation.peak_bytes + in_passing,
            ),
            engine=train.engine, precision=train.precision, zero=self._zero | {"stage": stage}, world_size=self._ranks,
            micro_batches=per_rank // examples, on_gpu=self._on_gpu,
        )  # fmt: skip
        shards = self._ranks if train.engine == "deepspeed" and stage else 1
        return replace(
            memory,
            weights=memory.weights + (beside / self._ranks if sharded else beside),
            optimizer=memory.optimizer - (8 - _MOMENTS.get(train.optimizer, 8)) * sum(sizes) / shards,
            buffers=memory.buffers + (min(beside, 4.0 * self._zero["max_live"]) if sharded else 0.0),
        )

    def _step(
        self, tuning: TuningConfig, train: TuneTrainConfig, frozen: torch.dtype, trained: torch.dtype, examples: int,
        *, learns: bool = True,
    ) -> StepCost:  # fmt: skip
        """One micro-batch, or an evaluation's forward pass; asked for again, the answer is there."""
        again = train.activation_checkpointing == "full" and learns
        autocast = train.engine == "torch" and train.precision == "bf16"
        key = (tuning.method, frozen, trained, examples, learns, again, autocast)
        if key not in self._traced:
            total = self._family.dims.num_layers
            found = {}
            for layers in few_layers(self._family) if _treats_layers_alike(tuning) else [total]:
                short = with_layers(self._family, layers)
                model = _adapted(short, tuning)
                if again:  # without numbers, there is no state to draw them from
                    model.activation_checkpointing_enable(
                        {"use_reentrant": False, "preserve_rng_state": False}
                    )
                found[layers] = model_step(
                    model, short, lambda tensor: trained if tensor.requires_grad else frozen, windows=examples,
                    length=self._length, autocast=autocast, learns=learns,
                )  # fmt: skip
            self._traced[key] = extrapolated(found, total)
        return self._traced[key]


def _treats_layers_alike(tuning: TuningConfig) -> bool:
    """Whether a few layers tell what all of them take."""
    if tuning.method == "full":
        return True
    config = peft_config(tuning)
    targets = config.target_modules
    named = [targets] if isinstance(targets, str) and targets != "all-linear" else targets or []
    by_layer = (config.layers_to_transform, getattr(config, "rank_pattern", None))
    return not any(by_layer) and (targets == "all-linear" or all(name.isidentifier() for name in named))


def _adapted(family: Family, tuning: TuningConfig) -> Any:
    """The stock model without weights, with the adapter in it that is to be trained."""
    model = skeleton(family)
    return model if tuning.method == "full" else add_adapter(model, peft_config(tuning), on_meta=True)


def _sizes(model: nn.Module) -> list[int]:
    return [p.numel() for p in model.parameters() if p.requires_grad]


def _dtypes(tuning: TuningConfig, train: TuneTrainConfig, sharded: bool) -> tuple[torch.dtype, torch.dtype]:
    """Of frozen and of trained weights as they run: torch's engine keeps what is trained in float32."""
    if train.precision == "fp32" or sharded:
        return torch.float32, torch.float32
    if train.engine == "torch":
        return (torch.bfloat16 if tuning.quantization == "nf4" else torch.float32), torch.float32
    return torch.bfloat16, torch.bfloat16


def _frozen(model: Any, tuning: TuningConfig, width: int) -> tuple[float, float]:
    """(bytes of what is frozen, bytes of the largest matrix that is made from 4 bits in passing)."""
    packed = set()
    if tuning.quantization == "nf4":
        head = model.get_output_embeddings()
        packed = {id(module.weight) for module in model.modules() if is_linear(module) and module is not head}
    bits = _NF4_TWICE_BITS if tuning.double_quantization else _NF4_BITS
    total, largest = sum(4.0 * buffer.numel() for buffer in model.buffers()), 0  # VeRA's projections
    for parameter in model.parameters():
        if not parameter.requires_grad:
            total += parameter.numel() * (bits / 8 if id(parameter) in packed else width)
            largest = max(largest, parameter.numel() if id(parameter) in packed else 0)
    return total, float(width * largest)

"""Peak memory of one rank, part by part: training under every ZeRO stage, learning, writing.

Sharding is that of Rajbhandari et al. 2020 (arXiv 1910.02054), table 1. Buffers and passing copies are those that
DeepSpeed 0.19 makes, phase by phase; what the model itself makes is given (`ligo.steps` traces it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
STAGES = (0, 1, 2, 3)
_LIBRARIES = 2**29  # torch, transformers, DeepSpeed; on a GPU its context and kernels
_FALLBACK_BUCKET = 500_000_000  # elements; DeepSpeed's `buffered_allreduce_fallback`


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes that are held at once, by what they are for."""

    weights: float = 0.0
    optimizer: float = 0.0
    """Moments, and the float32 copies of weights that are stored in less."""
    gradients: float = 0.0
    activations: float = 0.0
    """What the forward pass keeps and passes on; logits too."""
    buffers: float = 0.0
    """DeepSpeed's, gathered weights, and what the optimiser step makes in passing."""
    libraries: float = _LIBRARIES
    phase: str = ""
    """What the rank is at then."""

    @property
    def parts(self) -> dict[str, float]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "phase"}

    @property
    def peak(self) -> float:
        return sum(self.parts.values())


@dataclass(frozen=True)
class Trained:
    """A model as training sees it; bytes are those of one micro-batch."""

    parameters: int
    largest_parameter: int
    activations: float
    """The most that is alive at once beside weights and gradients."""
    activations_and_gradients: float
    """The most together with gradients, as the backward pass makes them."""
    gradients_then: float
    """The share of gradients in that."""
    evaluation: float
    """Of a forward pass on validation windows."""


def zero_keys(deepspeed: Mapping[str, Any]) -> dict[str, Any]:
    """DeepSpeed's own keys on memory, with its defaults."""
    given = dict(deepspeed.get("zero_optimization", {}))
    stage = given.get("stage", 0)

    def size(key: str, default: int) -> int:
        value: Any = given.get(f"stage3_{key}", given.get(key, default))
        return default if value in (None, "auto") else int(value)

    return {
        "stage": stage,
        "overlap_comm": given.get("overlap_comm", stage == 3),
        "reduce_bucket_size": size("reduce_bucket_size", 500_000_000),
        "prefetch": size("prefetch_bucket_size", 50_000_000),
        "max_live": size("max_live_parameters", 1_000_000_000),
        "sub_group": size("sub_group_size", 1_000_000_000),
    }


def training_memory(
    model: Trained, *, engine: str, precision: str, zero: Mapping[str, Any], world_size: int, micro_batches: int,
    on_gpu: bool,
) -> Memory:  # fmt: skip
    """The phase of training in which a rank holds the most.

    Args:
        zero: from `zero_keys`.
        on_gpu: there, a buffer takes memory whether it is written to or not, and AdamW updates all tensors at once.
    """
    phases = (
        _torch_phases(model, micro_batches, on_gpu)
        if engine == "torch"
        else _deepspeed_phases(model, precision, zero, world_size, micro_batches, on_gpu)
    )
    return max(phases, key=lambda phase: phase.peak)


def _torch_phases(model: Trained, micro_batches: int, on_gpu: bool) -> list[Memory]:
    size = 4 * model.parameters
    held: dict[str, Any] = {"weights": size, "optimizer": 2 * size}
    return [
        _backward(model, held, gradient_bytes=4, accumulates=micro_batches > 1),
        Memory(**held, gradients=size, phase="optimizer step"),  # fused AdamW makes nothing in passing
        Memory(**held, activations=model.evaluation, phase="evaluation"),
    ]


def _deepspeed_phases(
    model: Trained, precision: str, zero: Mapping[str, Any], world_size: int, micro_batches: int, on_gpu: bool
) -> list[Memory]:
    stage, everything = zero["stage"], model.parameters
    share = everything if stage == 0 else -(-everything // world_size)
    width = 4 if precision == "fp32" else 2  # of weights, gradients and what is sent
    bucket = zero["reduce_bucket_size"] * (2 if zero["overlap_comm"] and stage < 3 else 1)
    filled = min(everything, zero["reduce_bucket_size"])
    buffer = width * (bucket if on_gpu else 0)  # memory that was never written to takes none on a CPU
    accumulates = micro_batches > 1

    if stage == 0:
        masters = 0 if precision == "fp32" else 4 * everything
        held: dict[str, Any] = {"weights": width * everything, "optimizer": 8 * everything + masters}
        gradients = width * everything
        return [
            _backward(model, held, gradient_bytes=width, accumulates=accumulates),
            Memory(
                **held,
                gradients=gradients,
                buffers=width * min(everything, _FALLBACK_BUCKET),
                phase="reduction",
            ),
            Memory(**held, gradients=gradients + masters, phase="optimizer step"),
            Memory(**held, activations=model.evaluation, phase="evaluation"),
        ]
    if stage < 3:
        held = {"weights": width * everything, "optimizer": 12 * share}
        backward = _backward(
            model, held, gradient_bytes=width, accumulates=accumulates and stage == 1, buffers=buffer
        )
        if stage == 2:  # gradients wait in the bucket only, and those of the own share stay
            waiting = width * (filled + share)
            bounded = Memory(
                **held, gradients=waiting, activations=model.activations, buffers=buffer, phase="backward"
            )
            backward = bounded if accumulates else min(backward, bounded, key=lambda phase: phase.peak)
        sent = width * filled if world_size > 1 else 0
        return [
            backward,
            Memory(
                **held, gradients=width * (everything if stage == 1 else filled), phase="reduction",
                buffers=sent + (buffer if everything > filled or on_gpu else 0),
            ),
            Memory(**held, gradients=(width + 4) * share, phase="optimizer step"),
            Memory(**held, activations=model.evaluation, phase="evaluation"),
        ]  # fmt: skip
    # stage 3: weights are dealt out in float32 when the model is loaded, gathered as they are needed, and copied once
    # more for the optimiser
    held = {"weights": 4 * share, "optimizer": 12 * share}
    live = min(everything, zero["max_live"])
    gathered = 4.0 * live + (4 * min(everything, zero["prefetch"]) if world_size > 1 else 0)
    kept = width * (zero["reduce_bucket_size"] if on_gpu else filled)
    own = width * share
    step = min(share, zero["sub_group"])
    return [
        Memory(
            **held, gradients=own + width * model.largest_parameter, activations=model.activations,
            buffers=kept + gathered, phase="backward",
        ),
        Memory(**held, gradients=own + 4 * step, buffers=kept, phase="optimizer step"),
        Memory(**held, gradients=own, activations=model.evaluation, buffers=kept + gathered, phase="evaluation"),
    ]  # fmt: skip


def _backward(
    model: Trained, held: dict[str, Any], *, gradient_bytes: int, accumulates: bool, buffers: float = 0.0
) -> Memory:
    """Gradients come one by one, or are there already and get another added."""
    if accumulates:
        return Memory(
            **held, gradients=gradient_bytes * (model.parameters + model.largest_parameter),
            activations=model.activations, buffers=buffers, phase="backward",
        )  # fmt: skip
    return Memory(
        **held, gradients=model.gradients_then, activations=model.activations_and_gradients - model.gradients_then,
        buffers=buffers, phase="backward",
    )  # fmt: skip


def learning_memory(
    maps: Trained,
    *,
    beside: float,
    zero: Mapping[str, Any],
    world_size: int,
    micro_batches: int,
    on_gpu: bool,
) -> Memory:
    """The phase of learning an operator in which a rank holds the most.

    Args:
        maps: the learned maps as a model; they are trained in float32, by torch alone or by ZeRO up to stage 2.
        beside: bytes of all that is held beside them: the small model, where maps start, and the best that were seen.
    """
    zero = {**zero, "stage": min(zero["stage"], 2)}
    phases = (
        _torch_phases(maps, micro_batches, on_gpu)
        if world_size == 1
        else _deepspeed_phases(maps, "fp32", zero, world_size, micro_batches, on_gpu)
    )
    most = max(phases, key=lambda phase: phase.peak)
    return replace(most, weights=most.weights + beside)


def small_bytes(*, layers: Sequence[int], matrices: int, vectors: int, held: str, shards: int = 1) -> float:
    """Bytes of the frozen small model while an operator is learned; what is read of it in passing is not in it.

    Args:
        layers: parameters of the matrices of each layer.
        matrices, vectors: parameters of all other matrices, and of all that is no matrix, which stays in float32.
        held: fp32, bf16, nf4 (matrices of layers in 4 bits, with a scale for 64 numbers in 8 bits and one for 256 of these
            in 32: Dettmers et al. 2023, arXiv 2305.14314, section 3; other matrices in bf16), or offload (no matrix).
        shards: ranks that layers are dealt out to in turn.
    """
    most = sum(layers[::shards])
    nf4 = (4 + 8 / 64 + 32 / (64 * 256)) / 8
    of_layers, of_others = {"fp32": (4, 4), "bf16": (2, 2), "nf4": (nf4, 2), "offload": (0, 0)}[held]
    return of_layers * most + of_others * matrices + 4.0 * vectors


def write_peak(largest_bytes: int) -> int:
    """Bytes that a process takes to write a grown model whose largest tensor has so many while it is made.

    At most three times that tensor in the dtype of the arithmetic, and libraries and buffers: nothing that adds up.
    """
    return 3 * largest_bytes + _LIBRARIES


def disk_bytes(
    parameters: int, *, dtype: str, trains: bool, precision: str, moments: bool
) -> dict[str, float]:
    """Bytes on disk by what they are for: three checkpoints of an arm's state are there at once, when one is replaced.

    Args:
        moments: whether Adam's moments are grown and kept for training.
    """
    states = 12 if precision == "fp32" else 14
    return {
        "grown": float(parameters * BYTES[dtype]),
        "moments": 8.0 * parameters if moments else 0.0,
        "trained": 4.0 * parameters if trains else 0.0,
        "checkpoints": 3.0 * states * parameters if trains else 0.0,
    }

"""The options of the `learn` section: how learning an operator is run on the machine; no torch.

What is learned, and its recipe, are in `operator`; none of these options is meant to change the maps but by rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ligo.core.checks import check_between, check_choice
from ligo.core.errors import ConfigError
from ligo.training.config import BatchShape

FORWARDS = ("auto", "materialise", "hybrid", "factored")
RECOMPUTED = ("none", "weights", "layers")
HELD = ("fp32", "bf16", "nf4", "offload")
PRECISIONS = ("fp32", "bf16")


@dataclass(kw_only=True)
class LearnConfig:
    """How the maps of an operator are learned, or where they are taken from."""

    operator: str | None = None
    """Maps that were learned before, to take instead: an operator.safetensors, or the run folder that holds it."""
    fit_to: str | None = None
    """A finished run of the same target, to whose trained/ weights the maps are fitted by least squares instead of to the
    text; what that run took is charged."""
    small: str = "fp32"
    """How the frozen small model is held: fp32, bf16, nf4 (matrices of layers in 4 bits, the rest in bf16), or offload
    (not at all: each matrix is read from its file when it is used). What is written reads the weights as they are.
    Where layers are mixed by learned coefficients, each target layer reads all small ones: operator.depth_lr=0 spares it."""
    shard_small: bool = False
    """Several ranks: each layer's matrices lie on one rank and are sent to the others when they are used."""
    forward: str = "auto"
    """How a grown layer is run: materialise, hybrid, factored, or auto, the cheapest for each matrix."""
    recompute: str = "weights"
    """What the backward pass makes again instead of keeping it: none, weights, or layers."""
    micro_batch_tokens: int | None = None
    """Tokens per forward pass and rank. None: the rank's whole share of operator.batch_tokens at once."""
    precision: str = "fp32"
    """fp32 or bf16 (autocast; the maps and their optimiser stay in fp32)."""


def check(config: LearnConfig) -> None:
    """Refuse values that are no choice.

    Raises:
        ConfigError: the key, the value and the choices are named.
    """
    for key, choices in (
        ("small", HELD), ("forward", FORWARDS), ("recompute", RECOMPUTED), ("precision", PRECISIONS),
    ):  # fmt: skip
        check_choice(f"learn.{key}", getattr(config, key), choices)
    if config.micro_batch_tokens is not None:
        check_between("learn.micro_batch_tokens", config.micro_batch_tokens, 1)


def measured_as_written(config: LearnConfig, noise: float, exact_in_width: bool) -> tuple[bool, bool]:
    """Whether the loss of the start, and that of the best maps, are to be measured once more with the very weights that are
    written: where the small model is not held as it is stored, or noise shows, as it does unless growth is exact in width.
    """
    rounded = config.small not in ("fp32", "offload")
    return rounded or (noise > 0 and not exact_in_width), rounded or noise > 0


def check_partitions(optimizer: str, deepspeed: Mapping[str, Any]) -> None:
    """Refuse an optimiser of maps that ZeRO cannot deal out over several ranks.

    Args:
        optimizer: `operator.optimizer`.
        deepspeed: DeepSpeed's own keys.

    Raises:
        ConfigError: muon, with partitions.
    """
    stage = deepspeed.get("zero_optimization", {}).get("stage", 0)
    if optimizer == "muon" and stage >= 1:
        raise ConfigError(
            f"operator.optimizer=muon makes whole maps orthogonal, and ZeRO-{stage} gives the optimiser flat pieces of "
            "them.\n  Try: deepspeed=zero0, or operator.optimizer=adamw"
        )


def learn_shape(config: LearnConfig, batch_tokens: int, sequence_length: int, world_size: int) -> BatchShape:
    """How one step's windows are spread over ranks and micro-batches.

    Args:
        batch_tokens: of one step, over all ranks; what is over a whole number of windows is left out.

    Raises:
        ConfigError: the windows do not divide by the ranks, or a rank's share by the micro-batches.
    """
    windows = max(1, batch_tokens // sequence_length)
    per_rank, rest = divmod(windows, world_size)
    if rest:
        whole = sequence_length * world_size
        raise ConfigError(
            f"operator.batch_tokens={batch_tokens} is {windows} windows of {sequence_length} tokens, which do not divide "
            f"by {world_size} ranks.\n  Try: operator.batch_tokens={max(1, round(batch_tokens / whole)) * whole}"
        )
    micro = per_rank if config.micro_batch_tokens is None else config.micro_batch_tokens // sequence_length
    if micro == 0 or per_rank % micro:
        raise ConfigError(
            f"learn.micro_batch_tokens={config.micro_batch_tokens} does not divide the {per_rank} windows of "
            f"{sequence_length} tokens that each rank has per step.\n  Try: learn.micro_batch_tokens={sequence_length}"
        )
    return BatchShape(windows, per_rank, per_rank // micro)

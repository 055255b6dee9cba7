"""The options of tuning, and what cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ligo.core.checks import check_between, check_choice
from ligo.core.errors import ConfigError
from ligo.data.instructions import ON_EMPTY, ON_LONG
from ligo.training.config import TrainConfig, check_moments
from ligo.training.config import check as check_training

METHODS = ("full", "lora", "vera")
QUANTIZATIONS = ("none", "nf4")


@dataclass(kw_only=True)
class TuningConfig:
    """What is trained, and how the rest is held."""

    method: str = "full"
    """full (every weight), lora (Hu et al. 2021, arXiv 2106.09685) or vera (Kopiczko et al. 2023, arXiv 2310.11454)."""
    peft: dict[str, Any] = field(default_factory=dict)
    """The adapter's own keys, passed through to PEFT's LoraConfig or VeraConfig as they are."""
    adapter: str | None = None
    """lora and vera: a PEFT folder to go on from; its adapter_config.json counts, and tuning.peft does not."""
    quantization: str = "none"
    """none, or nf4: frozen matrices are held in 4-bit NormalFloat (Dettmers et al. 2023, arXiv 2305.14314)."""
    double_quantization: bool = True
    """nf4: the scales are quantised too, which leaves 0.127 bits of them per weight in the place of 0.5."""
    force_zero3: bool = False
    """nf4: lets ZeRO-3 shard what is quantised, though losses have been seen to drift there."""
    lr: float = 2e-5
    """Peak rate known to work with the method; train.lr unless that is set."""


@dataclass(kw_only=True)
class InstructionDataConfig:
    """The instructions to tune on."""

    path: str | None = None
    """.json (a list) or .jsonl, either also .gz: instruction, input and output as Alpaca has them, or chats in `messages`."""
    validation_path: str | None = None
    """Another such file to evaluate on. null: examples of `path` are held out."""
    validation_fraction: float = 0.05
    """Part of the examples that is held out."""
    validation_examples: int = 512
    """Most examples to evaluate on."""
    max_length: int = 512
    """Most tokens of an example."""
    on_long: str = "truncate"
    """truncate, or drop, for longer ones."""
    on_empty: str = "drop"
    """drop, or error, for records with an empty response."""


@dataclass(kw_only=True)
class TuneTrainConfig(TrainConfig):
    """How long and how fast, in examples; max_tokens, batch_tokens and micro_batch_tokens follow."""

    epochs: float = 3.0
    """Times that the examples are gone through."""
    steps: int | None = None
    """Optimiser steps; goes before epochs."""
    batch_size: int = 128
    """Examples per optimiser step, over all ranks."""
    micro_batch_size: int | None = None
    """Examples per forward pass and rank. null: the rank's whole share at once."""


_DERIVED = {"max_tokens": "epochs", "batch_tokens": "batch_size", "micro_batch_tokens": "micro_batch_size"}


def check(tuning: TuningConfig, data: InstructionDataConfig, train: TuneTrainConfig) -> None:
    """Refuse values that cannot be.

    Raises:
        ConfigError: the value, why it cannot be, and what to type instead.
    """
    check_choice("tuning.method", tuning.method, METHODS)
    check_choice("tuning.quantization", tuning.quantization, QUANTIZATIONS)
    check_between("tuning.lr", tuning.lr, 0, above=True)
    check_choice("data.on_long", data.on_long, ON_LONG)
    check_choice("data.on_empty", data.on_empty, ON_EMPTY)
    check_between("data.validation_fraction", data.validation_fraction, 0, 0.5, above=True)
    check_between("data.validation_examples", data.validation_examples, 1)
    check_between("data.max_length", data.max_length, 2)
    check_budget(train, "train")
    check_training(train, "train")
    check_moments(train, "reset")
    if tuning.method == "full":
        _check_full(tuning)
    else:
        _check_adapter(train)


def check_budget(train: TuneTrainConfig, section: str) -> None:
    """Refuse budgets that cannot be.

    Args:
        section: where the options are typed.

    Raises:
        ConfigError: the value, and what to type instead.
    """
    check_between(f"{section}.epochs", train.epochs, 0, above=True)
    check_between(f"{section}.batch_size", train.batch_size, 1)
    if train.steps is not None:
        check_between(f"{section}.steps", train.steps, 1)
    for key, instead in _DERIVED.items():
        if getattr(train, key) != getattr(TrainConfig, key):
            raise ConfigError(
                f"{section}.{key} follows from the examples and {section}.{instead}, and cannot be set beside them.\n"
                f"  Try: {section}.{instead}="
            )


def _check_full(tuning: TuningConfig) -> None:
    for key, default in (("peft", {}), ("adapter", None), ("quantization", "none")):
        value = getattr(tuning, key)
        if value != default:
            raise ConfigError(
                f"tuning.{key}={value} is for adapters beside frozen weights, and tuning.method=full trains the weights "
                "themselves.\n  Try: tuning=lora"
            )


def _check_adapter(train: TuneTrainConfig) -> None:
    refused = {
        "optimizer": (train.optimizer, "adamw", "muon", "it is for the matrices of layers, which are frozen"),
        "layer_drop": (train.layer_drop, 0.0, None, "a dropped layer's frozen weights have no gradient"),
        "token_drop": (train.token_drop, 0.0, None, "responses would lose tokens that count"),
        "export": (train.export, "none", None, "checkpoints hold the adapter alone; merge=true exports the model"),
    }  # fmt: skip
    for key, (value, default, only, why) in refused.items():
        if value != default and only in (None, value):
            raise ConfigError(
                f"train.{key}={value} does not go with an adapter: {why}.\n  Try: train.{key}={default}"
            )


def check_zero(tuning: TuningConfig, train: TrainConfig, deepspeed: Mapping[str, Any]) -> None:
    """Refuse a quantised base under ZeRO-3.

    Raises:
        ConfigError: unless it is forced.
    """
    stage = deepspeed.get("zero_optimization", {}).get("stage", 0)
    sharded = train.engine == "deepspeed" and stage == 3
    if sharded and tuning.quantization == "nf4" and not tuning.force_zero3:
        raise ConfigError(
            "ZeRO-3 shards the 4-bit weights of tuning.quantization=nf4 too. Losses there have been seen to drift from those "
            "of one process, by 0.2 after 15 steps (DeepSpeed 0.19.8, bitsandbytes 0.50.2); that ligo's do not has been "
            "checked on CPUs alone.\n"
            "  Try: deepspeed=zero2, or tuning.force_zero3=true to do it all the same"
        )


def check_spread(train: TuneTrainConfig, world_size: int, section: str = "train") -> None:
    """Refuse batches that do not divide over the ranks there are and into micro-batches.

    Raises:
        ConfigError: the numbers, and the nearest that fit.
    """
    per_rank, rest = divmod(train.batch_size, world_size)
    if rest or per_rank == 0:
        raise ConfigError(
            f"{section}.batch_size={train.batch_size} does not divide by {world_size} ranks.\n"
            f"  Try: {section}.batch_size={max(1, per_rank) * world_size}"
        )
    micro = train.micro_batch_size
    if micro is not None and (micro < 1 or per_rank % micro):
        raise ConfigError(
            f"{section}.micro_batch_size={micro} does not divide the {per_rank} examples that each rank has per step.\n"
            f"  Try: {section}.micro_batch_size=1"
        )


def training_of(train: TuneTrainConfig, num_examples: int, max_length: int) -> TrainConfig:
    """The same in tokens, an example being counted as `max_length` of them."""
    steps = train.steps or max(1, round(train.epochs * num_examples / train.batch_size))
    micro = None if train.micro_batch_size is None else train.micro_batch_size * max_length
    batch_tokens = train.batch_size * max_length
    plain = TrainConfig(**{each.name: getattr(train, each.name) for each in fields(TrainConfig)})
    return replace(
        plain, max_tokens=steps * batch_tokens, batch_tokens=batch_tokens, micro_batch_tokens=micro
    )

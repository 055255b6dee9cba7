"""The options of training, and what cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ligo.core.checks import check_between, check_choice
from ligo.core.errors import ConfigError

SCHEDULES = ("cosine", "wsd", "constant")
ENGINES = ("deepspeed", "torch")
PRECISIONS = ("fp32", "bf16", "fp16")
OPTIMIZERS = ("adamw", "muon", "adamw8bit", "paged_adamw", "paged_adamw8bit")
DECAYS = ("linear", "sqrt")
ATTENTIONS = ("sdpa", "eager", "flash_attention_2")
CHECKPOINTING = ("none", "full")
EXPORTS = ("none", "last", "every")
ON_SPIKE = ("warn", "rewind")


@dataclass(kw_only=True)
class TrainConfig:
    """One arm of a run: how long, how fast, on what."""

    max_tokens: int = 1_048_576
    """Token budget; the schedule is fitted to it."""
    batch_tokens: int = 4096
    """Tokens per optimiser step, over all ranks."""
    micro_batch_tokens: int | None = None
    """Tokens per forward pass and rank. None: the rank's whole share at once."""
    lr: float = 1e-3
    """Peak learning rate."""
    schedule: str = "cosine"
    """cosine, wsd (warm-up, stable, decay) or constant."""
    warmup_fraction: float = 0.05
    """Part of the steps spent warming up."""
    decay_fraction: float = 0.25
    """wsd: part of the steps spent decaying."""
    decay_shape: str = "linear"
    """wsd: linear, or sqrt (1 - sqrt of the part of the decay that is done; Haegele et al. 2024, arXiv 2405.18392)."""
    final_lr_ratio: float = 0.0
    """Last learning rate as a part of the peak."""
    optimizer: str = "adamw"
    """adamw; muon (hidden matrices by Muon, all else by AdamW); adamw8bit, paged_adamw or paged_adamw8bit (bitsandbytes)."""
    muon_lr_factor: float = 1.0
    """muon: its rate as a multiple of lr. Its updates have the root mean square of AdamW's, so 1 fits a tuned lr."""
    rewarm_steps: int = 0
    """After growth: steps over which the rate of new coordinates rises anew, their Adam beginning at step 0, while
    old ones go on. Needs operator.optimizer_state=keep_old. 0: new coordinates are treated as old ones."""
    weight_decay: float = 0.1
    """On matrices only; norms and biases are not decayed."""
    beta1: float = 0.9
    """Adam: decay of the first moment."""
    beta2: float = 0.95
    """Adam: decay of the second moment."""
    clip: float = 1.0
    """Largest gradient norm; 0 for no clipping."""
    evaluate_every: int = 25
    """Steps between evaluations on the fixed validation set."""
    save_every: int = 200
    """Steps between checkpoints that a later start goes on from."""
    engine: str = "deepspeed"
    """deepspeed, or torch (one process)."""
    precision: str = "fp32"
    """fp32, bf16 or fp16 (the optimiser's copy of the weights stays in fp32); fp16 needs DeepSpeed and a GPU."""
    activation_checkpointing: str = "none"
    """none, or full: activations inside each layer are made again in the backward pass, for a third more compute."""
    attention: str = "sdpa"
    """sdpa (eager where a model has no other), eager, or flash_attention_2 (package flash_attn, a GPU, bf16)."""
    liger: bool = False
    """Liger's Triton kernels for norms, rotary embeddings and feed-forward blocks (package liger_kernel, a GPU)."""
    compile: bool = False
    """torch.compile."""
    layer_drop: float = 0.0
    """Probability at which training drops the last layer in the end, earlier ones less (progressive layer dropping)."""
    token_drop: float = 0.0
    """Part of the tokens that the layers between first and last pass over in training (random-LTD)."""
    keep_last: int = 2
    """How many of the newest checkpoints stay."""
    keep_every: int = 0
    """Checkpoints of steps that this divides stay for good; 0 for none."""
    export: str = "none"
    """none, last or every: which checkpoints hold the model as a stock Hugging Face folder too."""
    spike_factor: float = 0.0
    """A loss above this many times the median of the 32 before it is a spike; 0 for never."""
    on_spike: str = "warn"
    """warn, or rewind: go on from the newest checkpoint, with the data since then left out."""


@dataclass(frozen=True)
class BatchShape:
    """How one optimiser step's windows are spread."""

    windows: int
    windows_per_rank: int
    micro_batches: int

    @property
    def windows_per_micro_batch(self) -> int:
        return self.windows_per_rank // self.micro_batches


_CHOICES = {
    "schedule": SCHEDULES,
    "decay_shape": DECAYS,
    "optimizer": OPTIMIZERS,
    "engine": ENGINES,
    "precision": PRECISIONS,
    "attention": ATTENTIONS,
    "activation_checkpointing": CHECKPOINTING,
    "export": EXPORTS,
    "on_spike": ON_SPIKE,
}


def check(config: TrainConfig, section: str) -> None:
    """Refuse values that are no choice.

    Raises:
        ConfigError: a word that is none of the options, or a number outside its range.
    """
    for key, options in _CHOICES.items():
        check_choice(f"{section}.{key}", getattr(config, key), options)
    for key in ("max_tokens", "batch_tokens", "lr", "evaluate_every", "save_every", "decay_fraction",
                "muon_lr_factor"):  # fmt: skip
        check_between(f"{section}.{key}", getattr(config, key), 0, above=True)
    for key in ("warmup_fraction", "decay_fraction", "final_lr_ratio"):
        check_between(f"{section}.{key}", getattr(config, key), 0, 1)
    for key in ("layer_drop", "token_drop"):
        check_between(f"{section}.{key}", getattr(config, key), 0, 0.9)
    for key in ("beta1", "beta2"):
        check_between(f"{section}.{key}", getattr(config, key), 0, 1 - 1e-12)
    for key in ("weight_decay", "clip", "rewarm_steps", "keep_every", "spike_factor"):
        check_between(f"{section}.{key}", getattr(config, key), 0)
    check_between(f"{section}.keep_last", config.keep_last, 1)
    if config.precision == "fp16" and config.engine == "torch":
        raise ConfigError(
            f"{section}.precision=fp16 needs losses to be scaled, which {section}.engine=torch does not do.\n"
            f"  Try: {section}.engine=deepspeed, or {section}.precision=bf16"
        )
    if config.max_tokens < config.batch_tokens:
        raise ConfigError(
            f"{section}.max_tokens={config.max_tokens} is less than one step of {config.batch_tokens} tokens "
            f"(train.batch_tokens).\n  Try: {section}.max_tokens={100 * config.batch_tokens}"
        )
    if config.rewarm_steps and config.optimizer != "adamw":
        raise ConfigError(
            f"{section}.rewarm_steps={config.rewarm_steps} is a way of AdamW, and {section}.optimizer={config.optimizer}.\n"
            f"  Try: {section}.optimizer=adamw, or {section}.rewarm_steps=0"
        )


def keeps_moments(config: TrainConfig) -> bool:
    """Whether the optimiser keeps Adam's moments of every parameter in float32."""
    return config.optimizer == "adamw"


def check_moments(config: TrainConfig, optimizer_state: str) -> None:
    """Refuse what cannot be done with the small run's Adam moments.

    Args:
        optimizer_state: `operator.optimizer_state`.

    Raises:
        ConfigError: `train.optimizer` has no such moments, or there is nothing to tell new coordinates from old ones by.
    """
    if not keeps_moments(config) and optimizer_state != "reset":
        raise ConfigError(
            f"operator.optimizer_state={optimizer_state} begins with Adam's moments in float32, which "
            f"train.optimizer={config.optimizer} does not keep.\n"
            "  Try: operator.optimizer_state=reset, or train.optimizer=adamw"
        )
    if config.rewarm_steps and optimizer_state != "keep_old":
        raise ConfigError(
            f"train.rewarm_steps={config.rewarm_steps} lets new coordinates begin anew beside old ones that keep "
            f"their moments, and operator.optimizer_state={optimizer_state} treats both alike.\n"
            "  Try: operator.optimizer_state=keep_old"
        )


def batch_shape(config: TrainConfig, sequence_length: int, world_size: int) -> BatchShape:
    """Windows per step, per rank and per micro-batch.

    Raises:
        ConfigError: the tokens do not divide into windows, ranks and micro-batches.
    """
    windows, rest = divmod(config.batch_tokens, sequence_length)
    if rest or windows % world_size:
        whole = sequence_length * world_size
        raise ConfigError(
            f"train.batch_tokens={config.batch_tokens} does not divide into windows of {sequence_length} tokens "
            f"for {world_size} rank(s).\n  Try: train.batch_tokens={max(1, round(config.batch_tokens / whole)) * whole}"
        )
    per_rank = windows // world_size
    micro = per_rank if config.micro_batch_tokens is None else config.micro_batch_tokens // sequence_length
    if micro == 0 or per_rank % micro:
        raise ConfigError(
            f"train.micro_batch_tokens={config.micro_batch_tokens} does not divide the {per_rank} windows of "
            f"{sequence_length} tokens that each rank has per step.\n  Try: train.micro_batch_tokens={sequence_length}"
        )
    return BatchShape(windows, per_rank, per_rank // micro)


# What ligo derives from its own options; DeepSpeed's other keys pass through as they are.
_DERIVED = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "optimizer",
    "scheduler",
    "bf16",
    "fp16",
)


def check_deepspeed_keys(keys: Mapping[str, Any]) -> None:
    """Refuse keys that ligo derives, a ZeRO stage that there is not, and what a stage cannot do.

    Raises:
        ConfigError: the key is named.
    """
    for key in _DERIVED:
        if key in keys:
            raise ConfigError(
                f"deepspeed.{key} follows from the train options (batch_tokens, micro_batch_tokens, clip, lr, "
                f"precision) and cannot be set beside them.\n  Try: leave deepspeed.{key} out"
            )
    zero = keys.get("zero_optimization", {})
    _check_mapping("deepspeed.zero_optimization", zero)
    for part in ("offload_param", "offload_optimizer"):
        _check_mapping(f"deepspeed.zero_optimization.{part}", zero.get(part) or {})
    stage = zero.get("stage", 0)
    if stage not in (0, 1, 2, 3):
        raise ConfigError(
            f"deepspeed.zero_optimization.stage={stage} is no ZeRO stage: there are 0, 1, 2 and 3.\n"
            "  Try: deepspeed=zero1"
        )
    if not zero.get("compute_grad_norm", True):
        raise ConfigError(
            "deepspeed.zero_optimization.compute_grad_norm=false leaves gradients that are not finite unseen, and they "
            "would ruin the weights.\n  Try: leave deepspeed.zero_optimization.compute_grad_norm out"
        )
    if _device(zero, "offload_param") != "none" and stage != 3:
        raise ConfigError(
            f"deepspeed.zero_optimization.offload_param needs weights that are sharded, and the stage is {stage}.\n"
            "  Try: deepspeed=zero3-offload, or offload_optimizer alone: deepspeed=zero2-offload"
        )
    if _device(zero, "offload_optimizer") == "nvme":
        raise ConfigError(
            "deepspeed.zero_optimization.offload_optimizer.device=nvme keeps the optimiser's states on a disk, from "
            "where ligo's checkpoints do not take them.\n  Try: deepspeed=zero3-nvme, which keeps them in the CPU's memory"
        )


def _check_mapping(key: str, value: object) -> None:
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{key}={value} is no group of options.\n  Try: {key}.OPTION=VALUE, or leave {key} out"
        )


def uses_nvme(keys: Mapping[str, Any]) -> bool:
    """Whether weights lie on a disk between uses."""
    return _device(keys.get("zero_optimization", {}), "offload_param") == "nvme"


def _device(zero: Mapping[str, Any], part: str) -> str:
    return str((zero.get(part) or {}).get("device", "none"))

"""How a step is computed, where there is a choice: attention, kernels, recomputation, compilation.

All of it is off unless asked for, and refused with the reason where a machine, DeepSpeed or a library cannot do it.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from ligo.core.errors import ConfigError
from ligo.families.base import Family
from ligo.training.config import TrainConfig

_NEEDS_GPU = (
    ("optimizer", "paged_adamw", "bitsandbytes pages between GPU and CPU memory", "adamw"),
    ("optimizer", "paged_adamw8bit", "bitsandbytes pages between GPU and CPU memory", "adamw8bit"),
    ("attention", "flash_attention_2", "its kernels are written for CUDA", "sdpa"),
    ("liger", True, "its kernels are written in Triton", "false"),
    ("compile", True, "on a CPU it compiles for minutes, and steps are no faster afterwards", "false"),
)
_PACKAGES = (
    ("optimizer", "adamw8bit", "bitsandbytes", "'ligo[peft]'"),
    ("optimizer", "paged_adamw", "bitsandbytes", "'ligo[peft]'"),
    ("optimizer", "paged_adamw8bit", "bitsandbytes", "'ligo[peft]'"),
    ("attention", "flash_attention_2", "flash_attn", "flash-attn"),
    ("liger", True, "liger_kernel", "liger-kernel"),
)


def check_fits(config: TrainConfig, deepspeed: Mapping[str, Any]) -> None:
    """Refuse what cannot run here, before any work.

    Args:
        deepspeed: DeepSpeed's own keys.

    Raises:
        ConfigError: a package or a GPU is missing, or two options exclude each other.
    """
    for key, value, package, install in _PACKAGES:
        if getattr(config, key) == value and find_spec(package) is None:
            raise ConfigError(
                f"train.{key}={_shown(value)} needs the package '{package}', which is not installed.\n"
                f"  Try: pip install {install}"
            )
    if config.attention == "flash_attention_2" and config.precision == "fp32":
        raise ConfigError(
            "train.attention=flash_attention_2 computes in half precision only, and train.precision=fp32.\n"
            "  Try: train.precision=bf16, or train.attention=sdpa"
        )
    if config.compile and (config.layer_drop or config.token_drop):
        raise ConfigError(
            "train.compile=true would compile anew whenever other layers or tokens are dropped.\n"
            "  Try: train.compile=false"
        )
    if config.engine == "deepspeed":
        _check_stage(config, deepspeed.get("zero_optimization", {}).get("stage", 0))
    for key, value, why, instead in _NEEDS_GPU:
        if getattr(config, key) == value and not _has_gpu():
            raise ConfigError(
                f"train.{key}={_shown(value)} needs a GPU ({why}), and there is none.\n  Try: train.{key}={instead}"
            )


def _check_stage(config: TrainConfig, stage: int) -> None:
    """Refuse what DeepSpeed's ZeRO stages cannot do."""
    if config.optimizer == "muon" and stage >= 1:
        raise ConfigError(
            f"train.optimizer=muon makes whole matrices orthogonal, and ZeRO-{stage} gives the optimiser flat pieces of them "
            "(DeepSpeed's own Muon clips after the matrix was made orthogonal, which is another step size).\n"
            "  Try: deepspeed=zero0, train.engine=torch in one process, or train.optimizer=adamw"
        )
    if stage < 3:
        return
    refused = {
        "compile": (config.compile, "its weights come and go in hooks that break the graph"),
        "layer_drop": (
            config.layer_drop > 0,
            "it fetches the weights of layers in the order of the first step",
        ),
        "optimizer": (
            "8bit" in config.optimizer,
            "8-bit states there have not been found equal to those of one process",
        ),
    }
    for key, (asked, why) in refused.items():
        if asked:
            raise ConfigError(
                f"train.{key}={_shown(getattr(config, key))} does not go with ZeRO-3: {why}.\n  Try: deepspeed=zero2"
            )


def set_up(model: Any, config: TrainConfig, family: Family) -> None:
    """Prepare a stock model for training as the options say; nothing is changed that would be saved.

    Args:
        family: of the model, in any size.

    Raises:
        ConfigError: this model cannot.
    """
    if config.attention != "sdpa":  # which is transformers' own default
        try:
            model.set_attn_implementation(config.attention)
        except ValueError as error:
            raise ConfigError(
                f"train.attention={config.attention}: transformers' {type(model).__name__} has no such attention "
                f"({error}).\n  Try: train.attention=sdpa"
            ) from error
    if config.liger:
        from transformers.integrations.liger import apply_liger_kernel

        # the objectives make the loss from logits, which the fused losses would not give back
        apply_liger_kernel(model, {"fused_linear_cross_entropy": False, "cross_entropy": False})
    if config.activation_checkpointing == "full":
        if not model.supports_gradient_checkpointing:
            raise ConfigError(
                f"train.activation_checkpointing=full: transformers' {type(model).__name__} cannot recompute its layers.\n"
                "  Try: train.activation_checkpointing=none"
            )
        model.activation_checkpointing_enable({"use_reentrant": False})
    if config.layer_drop or config.token_drop:
        from ligo.training.dropping import install_dropping

        install_dropping(model, config, family)
    if config.compile:
        model.compile()


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _shown(value: object) -> str:
    return "true" if value is True else str(value)

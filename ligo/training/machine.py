"""What this machine, or DeepSpeed, cannot do is refused before any work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ligo.core.errors import ConfigError
from ligo.training.config import TrainConfig, uses_nvme
from ligo.training.deepspeed_engine import import_deepspeed


def check_machine(config: TrainConfig, keys: Mapping[str, Any]) -> None:
    """Refuse what DeepSpeed cannot do, or not on this machine.

    Raises:
        ConfigError: the option, and what would do.
    """
    gpu = torch.cuda.is_available()
    if config.precision == "fp16" and not gpu:
        raise ConfigError(
            "train.precision=fp16 needs a GPU: on a CPU DeepSpeed refuses it, and float16 arithmetic is hundreds of "
            "times slower than bfloat16's.\n  Try: train.precision=bf16"
        )
    if config.precision == "bf16" and gpu and not torch.cuda.is_bf16_supported():
        raise ConfigError(
            f"train.precision=bf16 is nothing that {torch.cuda.get_device_name()} computes in.\n"
            "  Try: train.precision=fp16"
        )
    if config.engine == "torch":
        return
    import_deepspeed()
    from deepspeed.ops.op_builder import AsyncIOBuilder
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from pydantic import ValidationError

    try:
        DeepSpeedZeroConfig(**keys.get("zero_optimization", {}))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, ("deepspeed", "zero_optimization", *first["loc"])))
        raise ConfigError(
            f"DeepSpeed does not take {where}={first['input']}: {first['msg']}.\n"
            f"  Try: leave {where} out, or its name as DeepSpeed's documentation has it"
        ) from error
    if uses_nvme(keys) and not (gpu and AsyncIOBuilder().is_compatible(verbose=False)):
        raise ConfigError(
            "deepspeed.zero_optimization.offload_param.device=nvme needs a GPU and DeepSpeed's async_io, which is built "
            "with libaio; one of them is missing here.\n  Try: deepspeed=zero3-offload, or apt install libaio-dev"
        )

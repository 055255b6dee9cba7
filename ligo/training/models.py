"""Models to train, in float32: from a stock folder, or fresh from a seed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ligo.training.config import TrainConfig


def pretrained_model(folder: Path, deepspeed: Mapping[str, Any], config: TrainConfig) -> Any:
    """A causal LM with plain `from_pretrained`; under ZeRO-3 it is sharded while it loads."""
    import torch
    from transformers import AutoModelForCausalLM

    if config.engine == "deepspeed" and deepspeed.get("zero_optimization", {}).get("stage") == 3:
        from transformers.integrations import HfDeepSpeedConfig

        from ligo.core import distributed
        from ligo.training.engine import import_deepspeed

        import_deepspeed()
        distributed.start()
        keys = {**deepspeed, "train_micro_batch_size_per_gpu": 1}
        sharding = HfDeepSpeedConfig(keys)  # must be alive while the model is built
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        del sharding
        return model
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)


def fresh_model(model_config: Mapping[str, Any], seed: int) -> Any:
    """A causal LM with fresh weights; the same seed gives the same weights on every rank."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**model_config)).to(torch.float32)

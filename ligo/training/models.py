"""Models to train, in float32: from a stock folder, or fresh from a seed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ligo.checkpoint.load import load_model
from ligo.checkpoint.reader import read_config
from ligo.families import stock
from ligo.families.base import family_of
from ligo.training.config import TrainConfig


def pretrained_model(folder: Path, deepspeed: Mapping[str, Any], config: TrainConfig) -> Any:
    """A model with plain `from_pretrained` of its own class; under ZeRO-3 it is sharded while it loads."""
    import torch

    stock_class = stock.model_class(family_of(read_config(folder)))
    if config.engine == "deepspeed" and deepspeed.get("zero_optimization", {}).get("stage") == 3:
        from transformers.integrations import HfDeepSpeedConfig

        from ligo.core import distributed
        from ligo.training.deepspeed_engine import import_deepspeed

        import_deepspeed()
        distributed.start()
        keys = {**deepspeed, "train_micro_batch_size_per_gpu": 1}
        sharding = HfDeepSpeedConfig(keys)  # must be alive while the model is built
        model = load_model(stock_class, folder, dtype=torch.float32)
        del sharding
        return model
    return load_model(stock_class, folder, dtype=torch.float32)


def fresh_model(model_config: Mapping[str, Any], seed: int) -> Any:
    """A model with fresh weights; the same seed gives the same weights on every rank."""
    import torch

    torch.manual_seed(seed)
    return stock.fresh_model(family_of(model_config)).to(torch.float32)

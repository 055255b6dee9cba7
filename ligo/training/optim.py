"""Optimisers: which parameters are decayed, and what steps them."""

from __future__ import annotations

import torch
from torch import nn

from ligo.training.config import TrainConfig


def make_optimizer(module: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    # under ZeRO-3 a partitioned parameter has no shape of its own; DeepSpeed keeps the full one beside it
    dimensions = [len(getattr(p, "ds_shape", p.shape)) for p in parameters]
    matrices = [p for p, d in zip(parameters, dimensions, strict=True) if d >= 2]
    others = [p for p, d in zip(parameters, dimensions, strict=True) if d < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=config.lr, betas=(config.beta1, config.beta2)
    )

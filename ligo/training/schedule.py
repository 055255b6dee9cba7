"""The learning rate as a pure function of the step, so that resuming needs no state."""

from __future__ import annotations

import math

from ligo.training.config import TrainConfig


def num_steps(config: TrainConfig) -> int:
    """Optimiser steps of the token budget."""
    return config.max_tokens // config.batch_tokens


def learning_rate(config: TrainConfig, step: int) -> float:
    """The rate of a step, 0-based."""
    total = num_steps(config)
    warmup = round(config.warmup_fraction * total)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "wsd":
        decay = max(1, round(config.decay_fraction * total))
        left = min(1.0, (total - step) / decay)
        part = 1 - math.sqrt(1 - left) if config.decay_shape == "sqrt" else left
    else:
        done = (step - warmup) / max(1, total - warmup)
        part = 0.5 * (1 + math.cos(math.pi * done))
    return config.lr * (config.final_lr_ratio + (1 - config.final_lr_ratio) * part)

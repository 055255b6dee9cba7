"""What is minimised, when a model is trained and when an operator is learned."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor
from torch.nn import functional as F


def next_token_loss(logits: Tensor, windows: Tensor) -> Tensor:
    """Mean next-token cross-entropy in nats: logits [batch, length, vocab] of windows [batch, length + 1]."""
    labels = rearrange(windows[:, 1:], "b t -> (b t)")
    return F.cross_entropy(rearrange(logits, "b t v -> (b t) v").float(), labels)

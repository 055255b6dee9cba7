"""How many tokens a model can see at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_FROM_BEHIND_PADDING = ("roberta",)
"""Their positions are counted from behind the padding token's id, and rows of the table up to it serve no token."""


def num_positions(config: Mapping[str, Any]) -> int | None:
    """Tokens that the model of a config.json can see at once; None where it names no such limit."""
    positions = config.get("max_position_embeddings", config.get("n_positions"))
    if positions is None or config.get("model_type") not in _FROM_BEHIND_PADDING:
        return None if positions is None else int(positions)
    padding = config.get("pad_token_id")
    return int(positions) - 1 - (1 if padding is None else int(padding))  # transformers' default is token 1

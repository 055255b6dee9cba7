"""Where the layers of a stock model are."""

from __future__ import annotations

from typing import Any

from torch import nn

from ligo.core.errors import ConfigError


def layers_of(model: Any, option: str) -> nn.ModuleList:
    """The list of the layers of a transformers model, first to last: the outermost one with an entry for each.

    Args:
        option: what needs it, for the error.

    Raises:
        ConfigError: the model keeps its layers in another way.
    """
    number = model.config.num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == number:
            return module
    raise ConfigError(
        f"{option} works on a list of layers, and transformers' {type(model).__name__} has no list of {number}.\n"
        f"  Try: leave {option} out"
    )

"""Layers and tokens that training leaves out, to spend less on a step; evaluation and what is saved have them all.

Layer dropping is progressive (Zhang and He 2020, arXiv 2010.13369): at step t of T, layer l of L is kept with probability

    1 - (l / L) * (1 - theta(t)),    theta(t) = (1 - drop) + drop * exp(-100 t / T)

so that the last layer is dropped with probability `train.layer_drop` once the schedule has settled. What a kept layer adds
to the residual stream is divided by its probability. Models that norm the stream itself are left unscaled, as in
LayerDrop (Fan et al. 2020, arXiv 1909.11556). The draw is a function of the step: all ranks drop the same layers.

Token dropping is that of random-LTD (Yao et al. 2022, arXiv 2211.11586): every layer but the first and the last passes
over a random part of the tokens of each window, another part in each layer; they go on unchanged. It is drawn like
dropout, from the seed of step and rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from ligo.accounting.flops import model_flops
from ligo.core.errors import ConfigError
from ligo.families.base import Family
from ligo.training.config import TrainConfig
from ligo.training.layers import layers_of
from ligo.training.schedule import num_steps


def keep_probabilities(config: TrainConfig, num_layers: int, step: int) -> np.ndarray:
    """Of each layer at a step, 0-based: [num_layers]."""
    dropped = config.layer_drop * (1 - math.exp(-100 * step / num_steps(config)))
    return 1 - dropped * np.arange(1, num_layers + 1) / num_layers


def kept_layers(config: TrainConfig, num_layers: int, step: int) -> np.ndarray:
    """Which layers a step runs: bool [num_layers]."""
    if not config.layer_drop:
        return np.ones(num_layers, dtype=bool)
    drawn = np.random.default_rng((step, _SEED)).random(num_layers)
    return drawn < keep_probabilities(config, num_layers, step)


_SEED = 2010_13369


def num_kept_tokens(config: TrainConfig, length: int) -> int:
    """Tokens of a window that a middle layer works on."""
    return max(1, round((1 - config.token_drop) * length))


def flops_share(config: TrainConfig, family: Family, length: int) -> Callable[[int], float]:
    """What a step costs as a part of one that drops nothing, as a function of the step."""
    if not (config.layer_drop or config.token_drop):
        return lambda step: 1.0
    whole, dims = model_flops(family, length).forward, family.dims
    attention = family.attention_flops(length) / dims.num_layers
    inside = [
        spec for spec in family.tensors if spec.layer is not None and len(spec.axes) >= 2 and not spec.lookup
    ]
    weights = sum(spec.num_elements(family.spaces) * spec.active_share for spec in inside)
    matrices = 2 * weights / dims.num_layers
    tokens = np.ones(dims.num_layers)
    if config.token_drop:
        tokens[1:-1] = num_kept_tokens(config, length) / length
    layers = tokens * matrices + tokens**2 * attention  # both the tokens and what they look at are fewer
    rest = whole - dims.num_layers * (matrices + attention)

    def share(step: int) -> float:
        kept = kept_layers(config, dims.num_layers, step)
        return float((rest + layers[kept].sum()) / whole)

    return share


def training_flops(config: TrainConfig, family: Family, length: int, steps: range | None = None) -> float:
    """What all steps of an arm cost together, or some of them."""
    share = flops_share(config, family, length)
    whole_steps = sum(share(step) for step in steps or range(num_steps(config)))
    return whole_steps * config.batch_tokens * model_flops(family, length).training


def check_dropping(config: TrainConfig, family: Family) -> None:
    """Refuse models that tokens cannot be dropped from.

    Raises:
        ConfigError: the class of an image is read off one of its tokens.
    """
    if config.token_drop and family.objective == "image_classes":
        raise ConfigError(
            f"train.token_drop={config.token_drop:g}: {family.name} models read an image's class off one token, which "
            "every layer has to work on.\n  Try: train.token_drop=0, train.layer_drop=0.1"
        )


class _Dropping:
    """Which layers the running step keeps, and with which probability it did so."""

    def __init__(self, config: TrainConfig, num_layers: int, rescales: bool) -> None:
        self._config, self._num_layers, self.rescales = config, num_layers, rescales
        self.start(0)

    def start(self, step: int) -> None:
        self.kept = kept_layers(self._config, self._num_layers, step)
        self.probabilities = keep_probabilities(self._config, self._num_layers, step)


_DROPPING: WeakKeyDictionary[nn.Module, _Dropping] = WeakKeyDictionary()


def start_step(model: nn.Module, step: int) -> None:
    """Draw the layers that a step drops, where `install_dropping` was asked to drop any."""
    if model in _DROPPING:
        _DROPPING[model].start(step)


def install_dropping(model: Any, config: TrainConfig, family: Family) -> None:
    """Let the layers of a stock model drop what `config` says while it is in training mode.

    Args:
        family: of the model, in any size.

    Raises:
        ConfigError: the model cannot.
    """
    check_dropping(config, family)
    layers = layers_of(model, "train.layer_drop" if config.layer_drop else "train.token_drop")
    dropping = _DROPPING[model] = _Dropping(config, len(layers), rescales=not family.post_norm)
    for number, layer in enumerate(layers):
        drops_tokens = config.token_drop > 0 and 0 < number < len(layers) - 1
        layer.forward = _dropping_forward(layer, number, dropping, config if drops_tokens else None)


def _dropping_forward(
    layer: nn.Module, number: int, dropping: _Dropping, of_tokens: TrainConfig | None
) -> Callable[..., Tensor]:
    stock = layer.forward

    def forward(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not layer.training:
            return stock(hidden, *args, **kwargs)
        if not dropping.kept[number]:
            return _Skip.apply(hidden, *layer.parameters())
        if of_tokens is None:
            out = stock(hidden, *args, **kwargs)
        else:
            places = _random_places(hidden, num_kept_tokens(of_tokens, hidden.shape[1]))
            length = hidden.shape[1]
            less = [_at(places, value, length) for value in (hidden, *args)]
            worked = stock(*less, **{key: _at(places, value, length) for key, value in kwargs.items()})
            out = hidden.scatter(1, places[..., None].expand_as(worked), worked)
        probability = dropping.probabilities[number]
        return hidden + (out - hidden) / probability if dropping.rescales and probability < 1 else out

    return forward


class _Skip(torch.autograd.Function):
    """The stream as it is. The gradient of the layer's weights is zero, not none: moments decay and ranks agree."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(*parameters)
        return hidden.view_as(hidden)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0], *(torch.zeros_like(parameter) for parameter in ctx.saved_tensors)


def _random_places(hidden: Tensor, number: int) -> Tensor:
    """Some places of each window, in order: [windows, number]."""
    drawn = torch.rand(hidden.shape[:2], device=hidden.device)
    return drawn.argsort(dim=1)[:, :number].sort(dim=1).values


def _at(places: Tensor, value: Any, length: int) -> Any:
    """What a layer is given, at these places only: attention masks, positions and their embeddings."""
    if isinstance(value, tuple):
        return tuple(_at(places, one, length) for one in value)
    if not isinstance(value, Tensor):
        return value
    if value.ndim == 4:  # a mask [windows or 1, heads or 1, queries, keys]
        rows = torch.take_along_dim(value, places[:, None, :, None], dim=2)
        return torch.take_along_dim(rows, places[:, None, None, :], dim=3)
    if value.ndim >= 2 and value.shape[1] == length:
        return torch.take_along_dim(value, places.reshape(*places.shape, *(1,) * (value.ndim - 2)), dim=1)
    return value

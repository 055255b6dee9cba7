"""Twenty shapes, every family and several groupings of heads among them, and what torch counts of a training step of each."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ligo.accounting.flops import sequence_flops
from ligo.families.base import family_of
from tests.families.tiny import RMS_DECODERS
from tests.families.tiny_others import OTHERS
from tests.growing import lively_model

_FAMILIES = {name: config for name, config in {**RMS_DECODERS, **OTHERS}.items() if " " not in name}
_UNEVEN = dict(hidden_size=72, num_hidden_layers=3, intermediate_size=100, vocab_size=130)

SHAPES: dict[str, dict[str, Any]] = {
    **_FAMILIES,
    "llama, 9 heads on 3": {
        **RMS_DECODERS["llama"], **_UNEVEN, "num_attention_heads": 9, "num_key_value_heads": 3,
    },
    "qwen2, 6 heads on 1, tied": {
        **RMS_DECODERS["qwen2 tied"], **_UNEVEN, "num_attention_heads": 6, "num_key_value_heads": 1,
    },
    "qwen3, 4 heads on 2, of twice the size": {**RMS_DECODERS["qwen3"], **_UNEVEN, "head_dim": 36},
}  # fmt: skip
"""Name -> config.json."""


def step_flops(config: dict[str, Any], *, sequences: int = 3, length: int = 16) -> tuple[int, int]:
    """FLOPs of a forward and a backward pass: by the formula, and as torch counts them with eager attention.

    Of images, the gradient to the pixels is asked for, which three times the forward pass includes.
    """
    family = family_of(config)
    model = lively_model(family, "float32")
    model.set_attn_implementation("eager")
    if family.dims.num_experts:
        model.set_experts_implementation("eager")
    if family.dims.vocab_size:
        inputs = {"input_ids": torch.randint(3, family.dims.vocab_size, (sequences, length))}
    else:
        length, size = family.tokens_per_image, family.setting("image_size")
        inputs = {"pixel_values": torch.randn(sequences, 3, size, size, requires_grad=True)}
    with FlopCounterMode(display=False) as counter:
        model(**inputs).logits.sum().backward()
    return 3 * sequences * sequence_flops(family, length), counter.get_total_flops()

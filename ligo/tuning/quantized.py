"""A frozen base in 4-bit NormalFloat, as QLoRA holds it (Dettmers et al., NeurIPS 2023, arXiv 2305.14314)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ligo.checkpoint.load import load_model
from ligo.checkpoint.reader import read_config
from ligo.core import distributed
from ligo.core.errors import ConfigError, require
from ligo.families.base import Family, family_of
from ligo.families.stock import model_class, skeleton
from ligo.training.config import TrainConfig

BLOCK = 64  # weights that share a scale
_LARGEST_ERROR = 0.15
"""NF4 is off by 0.09 of the root mean square of normal weights; with scales of other blocks, by 0.2 and more."""
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def quantized_model(folder: Path, config: TrainConfig, *, double_quantization: bool) -> Any:
    """A model with plain `from_pretrained`, the matrices of its layers in NF4, on the device that it is trained on.

    What is not quantised, and what is computed with, has the precision of `train.precision`.
    """
    from transformers import BitsAndBytesConfig

    bitsandbytes = import_bitsandbytes()
    if config.engine == "deepspeed":
        distributed.start()  # picks this rank's GPU
    dtype = _DTYPES[config.precision]
    model = load_model(
        model_class(family_of(read_config(folder))),
        folder,
        dtype=dtype,
        device_map={"": torch.cuda.current_device() if torch.cuda.is_available() else "cpu"},
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=double_quantization,
            bnb_4bit_compute_dtype=dtype,
        ),
    )
    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            # on CPUs with AVX512-BF16 an evaluation would pack the weights for inference (bitsandbytes 0.50.2), and
            # training after it would pass no gradient through them
            module.support_avx512bf16_for_cpu = False
    return model


def check_quantisable(family: Family) -> None:
    """Refuse, before any weight is read, rows that bitsandbytes gives back wrongly here.

    Its CPU kernel (0.50.2) takes the scales of other blocks for some lengths of rows (32, 48, 80, 96, 688).

    Raises:
        ConfigError: bitsandbytes is missing, or the length of the rows, and how far they are off.
    """
    functional = import_bitsandbytes().functional
    if torch.cuda.is_available():
        return
    model = skeleton(family)
    for length in sorted({each.in_features for each in model.modules() if isinstance(each, nn.Linear)}):
        rows = torch.randn(BLOCK, length, generator=torch.Generator().manual_seed(0))
        packed, state = functional.quantize_4bit(rows, blocksize=BLOCK, quant_type="nf4")
        error = float((functional.dequantize_4bit(packed, state) - rows).norm() / rows.norm())
        if error > _LARGEST_ERROR:
            raise ConfigError(
                f"tuning.quantization=nf4: on this CPU bitsandbytes gives rows of {length} numbers back with an error of "
                f"{error:.2f}, where NF4 has 0.09: it takes the scales of other blocks.\n"
                "  Try: a GPU, or tuning=lora"
            )


def import_bitsandbytes() -> Any:
    """At import it remarks on an inference kernel that tuning does not use."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    return require("bitsandbytes", extra="nf4", why="tuning.quantization=nf4")

"""Tiny tuning runs: a checkpoint with a tokenizer, an instruction file, and the command as a function."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from ligo.options import compose_options
from ligo.tune import OPTIONS, tune
from tests.conftest import REPO, tiny_config

TOKENIZER = REPO / "ligo" / "zoo" / "tiny-llama"
SHAPE = tiny_config(
    vocab_size=2048, hidden_size=64, head_dim=16, intermediate_size=128, max_position_embeddings=256
)
WORDS = ("light", "water", "bread", "stone", "river", "house", "tree", "king")


def checkpoint(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """A fresh model as a stock folder."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**{**SHAPE, **changes})).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / name, folder / name)
    return folder


def instructions(file: Path) -> Path:
    """64 records to copy a word out of the input."""
    records = [
        {"instruction": f"Say it {'twice' if number % 2 else 'once'}.", "input": word, "output": f"{word} " * (1 + number % 2)}
        for number in range(8)
        for word in WORDS
    ]  # fmt: skip
    file.write_text(json.dumps(records))
    return file


def run(folder: Path, base: Path, data: Path, *more: str) -> Path:
    """`python -m ligo.tune` in this process: six steps of eight examples on the torch engine, unless told otherwise."""
    arguments = [
        f"small.path={base}", f"data.path={data}", f"run.dir={folder}", "data.max_length=200", "train.batch_size=8",
        "train.steps=6", "train.engine=torch", "train.evaluate_every=3", "train.save_every=2", "tracking=jsonl",
        "hardware=none", "data.validation_fraction=0.125", *more,
    ]  # fmt: skip
    tune(*compose_options(arguments, OPTIONS))
    return folder


def tensors(file: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(file)

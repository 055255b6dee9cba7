"""Tiny models as folders, with a tokenizer that has one token for each byte of a text in ASCII; and the command."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ligo import evaluate
from ligo.command import main
from tests.conftest import random_model, tiny_config

END = "<|end|>"
CHARACTERS = [END, *(chr(code) for code in range(32, 127)), "\n"]
WINDOW = 32


def character_tokenizer() -> Any:
    """Ids are places in CHARACTERS; a text is ended by 0, and begins with nothing."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {character: number for number, character in enumerate(CHARACTERS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=END))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)


def save(folder: Path, model: Any) -> Path:
    """A model with the tokenizer as a stock folder."""
    model.save_pretrained(folder)
    character_tokenizer().save_pretrained(folder)
    return folder


def random_checkpoint(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """A LLaMA in float64 whose guesses differ from place to place; WINDOW positions."""
    shape = {"vocab_size": len(CHARACTERS), "max_position_embeddings": WINDOW, **changes}
    return save(folder, random_model(tiny_config(**shape), seed=seed))


def unigram_checkpoint(folder: Path, probabilities: Mapping[str, float]) -> Path:
    """A LLaMA that guesses each character with its probability, whatever stands before; other characters never.

    Layers add nothing, the residual stream is one everywhere, and so is what the last norm makes of it, but for its
    epsilon.
    """
    model = random_model(tiny_config(vocab_size=len(CHARACTERS), max_position_embeddings=WINDOW))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name or "embed_tokens" in name:
                weight.fill_(1.0)
            else:
                weight.zero_()
        norm = 1 / math.sqrt(1 + model.config.rms_norm_eps)
        model.lm_head.weight[:, 0] = -1e4
        for character, probability in probabilities.items():
            model.lm_head.weight[CHARACTERS.index(character), 0] = math.log(probability) / norm
    return save(folder, model)


def run(*arguments: str) -> int:
    """`python -m ligo.evaluate` in this process; its exit code."""
    before, sys.argv = sys.argv, ["ligo", *arguments]
    try:
        main(evaluate.evaluate, evaluate.DESCRIPTION, evaluate.EXAMPLES, evaluate.OPTIONS)
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = before
    return 0


def figures(folder: Path) -> dict[tuple[str, str, str], float]:
    """(model, task, metric) -> value, of a run folder."""
    rows = json.loads((folder / "evaluation.json").read_text())["rows"]
    return {(row["model"], row["task"], row["metric"]): row["value"] for row in rows}

"""From an instruction file to the windows that `training.loop` is given.

A window is an example, filled up to the longest of its batch; what is read and not guessed, prompt and filling, is
marked as `training.objectives.InstructionLM` has it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ligo.core.errors import DataError
from ligo.core.log import say
from ligo.data.instructions import (
    IGNORED,
    TokenizedExample,
    TokenizedExamples,
    read_examples,
    tokenize_examples,
)
from ligo.data.order import shuffled
from ligo.training.objectives import as_context
from ligo.tuning.config import InstructionDataConfig

VALIDATION_ROWS = 16
"""Examples per forward pass of an evaluation."""


@dataclass(frozen=True)
class Instructions:
    """What is tuned on, and what is held out."""

    train: list[TokenizedExample]
    validation: list[TokenizedExample]
    fill: int
    """The token that fills windows up; never guessed, nor seen by one that is."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all ids and labels."""
        digest = hashlib.sha256()
        for example in (*self.train, *self.validation):
            digest.update(example.ids.tobytes() + example.labels.tobytes())
        return digest.hexdigest()


def prepare_instructions(
    data: InstructionDataConfig, tokenizer: Any, vocab_size: int, positions: int | None = None
) -> Instructions:
    """Read, tokenize and split a file of instructions, and say what was left out.

    Args:
        positions: tokens that the model can see at once; None: no such limit.

    Raises:
        DataError: a file cannot be read, a record lacks a field, no example is left, the tokenizer has tokens that the
            model does not, or an example is longer than the model can see.
    """
    assert data.path is not None, "checked with the options"
    examples = _tokens_of(Path(data.path).expanduser(), data, tokenizer, vocab_size, positions)
    if data.validation_path is not None:
        held_out = _tokens_of(Path(data.validation_path).expanduser(), data, tokenizer, vocab_size, positions)
        train, validation = examples, held_out[: data.validation_examples]
    else:
        train, validation = _hold_out(examples, data)
    say(f"{len(train):,} examples to tune on, {len(validation):,} to evaluate on")
    return Instructions(train, validation, fill=int(tokenizer.eos_token_id))


def _tokens_of(
    path: Path, data: InstructionDataConfig, tokenizer: Any, vocab_size: int, positions: int | None
) -> list[TokenizedExample]:
    examples = read_examples(path, on_empty=data.on_empty)
    found = tokenize_examples(examples.items, tokenizer, max_length=data.max_length, on_long=data.on_long)
    largest = max(int(example.ids.max()) for example in found.items)
    if largest >= vocab_size:
        raise DataError(
            f"the tokenizer gives token {largest} for {path.name}, and the model knows {vocab_size} tokens.\n"
            "  Try: the tokenizer that belongs to the checkpoint"
        )
    longest = max(len(example.ids) for example in found.items)
    if positions is not None and longest > positions:
        raise DataError(
            f"{path.name} has an example of {longest} tokens, and the model knows {positions} positions.\n"
            f"  Try: data.max_length={positions}, and data.on_long says what becomes of longer ones"
        )
    _say_what_was_left_out(path, examples.num_empty, found, data.max_length)
    return found.items


def _say_what_was_left_out(path: Path, num_empty: int, found: TokenizedExamples, max_length: int) -> None:
    counts = {
        "without a response left out": num_empty,
        f"cut to {max_length} tokens": found.num_truncated,
        f"longer than {max_length} tokens left out": found.num_dropped,
    }
    told = [f"{count:,} {what}" for what, count in counts.items() if count]
    if told:
        say(f"{path.name}: {', '.join(told)}")


def _hold_out(
    examples: list[TokenizedExample], data: InstructionDataConfig
) -> tuple[list[TokenizedExample], list[TokenizedExample]]:
    """Some examples, always the same of a file, and the others."""
    count = min(data.validation_examples, max(1, round(data.validation_fraction * len(examples))))
    if count >= len(examples):
        raise DataError(
            f"{data.path} holds {len(examples)} example(s), of which {count} would be held out, and none is left to tune "
            "on.\n  Try: more examples, or data.validation_path=FILE"
        )
    order = _order(len(examples), seed=0, epochs=np.zeros(len(examples), dtype=np.int64))
    chosen = set(order[:count].tolist())
    held_out = [example for number, example in enumerate(examples) if number in chosen]
    return [example for number, example in enumerate(examples) if number not in chosen], held_out


def _order(count: int, *, seed: int, epochs: np.ndarray, places: np.ndarray | None = None) -> np.ndarray:
    places = np.arange(count) if places is None else places
    return shuffled(places, count, seed=seed, source=0, epochs=epochs)


class InstructionBatches:
    """Batches by step: `batches[step]` is int64 [batch_size, longest example of the batch], a function of (seed, step).

    Every epoch visits each example once, in an order of its own.
    """

    def __init__(self, instructions: Instructions, batch_size: int, seed: int) -> None:
        self._examples, self._fill = instructions.train, instructions.fill
        self._batch_size, self._seed = batch_size, seed

    def __getitem__(self, step: int) -> np.ndarray:
        return as_windows(self._of(step), self._fill)

    def num_inputs(self, step: int) -> int:
        """Tokens that a model is given of each example of a batch, filling included."""
        return max(len(example.ids) for example in self._of(step)) - 1

    def _of(self, step: int) -> list[TokenizedExample]:
        positions = np.arange(step * self._batch_size, (step + 1) * self._batch_size)
        epochs, places = np.divmod(positions, len(self._examples))
        numbers = _order(len(self._examples), seed=self._seed, epochs=epochs, places=places)
        return [self._examples[number] for number in numbers]


def as_windows(examples: Sequence[TokenizedExample], fill: int) -> np.ndarray:
    """int64 [examples, longest]: guessed tokens as they are, all others marked as context."""
    longest = max(len(example.ids) for example in examples)
    windows = np.full((len(examples), longest), as_context(np.array(fill)), dtype=np.int64)
    for row, example in zip(windows, examples, strict=True):
        guessed = example.labels != IGNORED
        row[: len(example.ids)] = np.where(guessed, example.ids, as_context(example.ids))
    return windows


def validation_windows(instructions: Instructions) -> list[np.ndarray]:
    """The fixed evaluation set, int64 [<= 16, longest] each; examples of like length stand together."""
    ordered = sorted(instructions.validation, key=lambda example: len(example.ids))
    return [
        as_windows(ordered[first : first + VALIDATION_ROWS], instructions.fill)
        for first in range(0, len(ordered), VALIDATION_ROWS)
    ]


def response_size(examples: Sequence[TokenizedExample], tokenizer: Any) -> tuple[int, int]:
    """(tokens that are guessed, bytes of the text that they stand for)."""
    guessed = [example.ids[example.labels != IGNORED] for example in examples]
    texts = tokenizer.batch_decode(guessed, skip_special_tokens=True)
    return sum(map(len, guessed)), sum(len(text.encode()) for text in texts)

"""From texts to the rows that a head on a text model is trained on, and how a model is given them.

A row is int64 [2 * length + answers]: token ids, PADDED behind the last; for each of them which of two texts it is of;
and what is to be found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ligo.accounting.flops import recomputed_flops
from ligo.core.errors import CheckpointError, ConfigError, DataError
from ligo.core.log import progress
from ligo.data.order import shuffled
from ligo.evaluation.finetuning.heads import check_body
from ligo.evaluation.models import Model
from ligo.families.base import Family, family_of
from ligo.training.objectives import TextObjective

PADDED = -1
_ROWS_AT_ONCE = 32  # per forward pass of an evaluation
_TEXTS_AT_ONCE = 1000  # what the tokenizer makes of them takes a hundred bytes for each token


@dataclass(frozen=True)
class Encoded:
    """One example as a model reads it."""

    ids: np.ndarray
    """int32 [tokens]"""
    types: np.ndarray
    """int32 [tokens]: 0 in the first text, 1 in the second."""
    answers: tuple[int, ...]

    @classmethod
    def of(cls, encoding: Any, *answers: int) -> Encoded:
        """
        Args:
            encoding: of the library tokenizers.
        """
        return cls(
            np.array(encoding.ids, dtype=np.int32), np.array(encoding.type_ids, dtype=np.int32), answers
        )


# --- what a model reads --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TextReader:
    """How one model reads texts."""

    family: Family
    tokenizer: Any
    """Of transformers, backed by the library tokenizers; it marks ends of texts."""
    length: int
    """Most tokens of a row."""

    @classmethod
    def of(cls, model: Model, wanted: int | None, usual: int) -> TextReader:
        """
        Args:
            wanted: most tokens of a row. None: `usual`, or what the model has positions for.

        Raises:
            CheckpointError: the model reads no text, or lacks weights, or its tokenizer will not do.
            ConfigError: the model has fewer positions than are wanted.
        """
        family = family_of(model.config)
        if not family.dims.vocab_size:
            raise CheckpointError(
                f"models.{model.name} is a {family.name} model, which reads images, not text.\n  Try: evaluation=images"
            )
        check_body(model, family)
        tokenizer = _marking_ends(model.tokenizer())
        positions = model.max_positions or usual
        if family.config["model_type"] == "roberta":  # positions are counted from behind the padding token
            positions -= 1 + fill_of(tokenizer)
        if wanted is not None and wanted > positions:
            raise ConfigError(
                f"evaluation.max_length={wanted} is more than the {positions} positions of models.{model.name}.\n"
                f"  Try: evaluation.max_length={positions}"
            )
        return cls(
            family=family, tokenizer=tokenizer, length=min(usual, positions) if wanted is None else wanted
        )

    @property
    def fill(self) -> int:
        return fill_of(self.tokenizer)

    def encodings(self, texts: list[str], seconds: list[str] | None = None, **options: Any) -> Iterator[Any]:
        """What the tokenizer makes of texts, or of pairs, with `options` of its call."""
        with progress("tokenise", len(texts)) as bar:
            for first in range(0, len(texts), _TEXTS_AT_ONCE):
                part = slice(first, first + _TEXTS_AT_ONCE)
                pair = None if seconds is None else seconds[part]
                yield from self.tokenizer(texts[part], pair, **options).encodings
                bar.advance(len(texts[part]))

    def check_vocabulary(self, examples: Sequence[Encoded]) -> None:
        """
        Raises:
            DataError: the tokenizer gives a token that the model does not have.
        """
        largest = max(int(example.ids.max()) for example in examples)
        if largest >= self.family.dims.vocab_size:
            raise DataError(
                f"the tokenizer gives token {largest}, and the model knows {self.family.dims.vocab_size} tokens.\n"
                "  Try: the tokenizer that belongs to the checkpoint"
            )


def fill_of(tokenizer: Any) -> int:
    """The token that rows are filled up with; attention passes over it."""
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return int(next(token for token in known if token is not None))


def _marking_ends(tokenizer: Any) -> Any:
    """The tokenizer, putting its end-of-text token where BERT has [CLS] and [SEP] if it puts no tokens of its own.

    Raises:
        CheckpointError: it puts none and has none, or is not backed by the library tokenizers.
    """
    if not tokenizer.is_fast:
        raise CheckpointError(
            f"the tokenizer {type(tokenizer).__name__} cannot tell where in a text its tokens are.\n"
            "  Try: save it with a tokenizer.json"
        )
    if tokenizer.num_special_tokens_to_add(pair=True) > 0:
        return tokenizer
    from tokenizers.processors import TemplateProcessing

    end = tokenizer.eos_token
    if end is None:
        raise CheckpointError(
            "the tokenizer marks neither beginnings nor ends of texts, and has no end-of-text token to do so.\n"
            "  Try: tokenizer.eos_token = TOKEN, and save it"
        )
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=[end, "$A", end],
        pair=[end, "$A", end, "$B:1", f"{end}:1"],
        special_tokens=[(end, tokenizer.eos_token_id)],
    )
    return tokenizer


# --- rows ----------------------------------------------------------------------------------------------------


def as_rows(examples: Sequence[Encoded]) -> np.ndarray:
    """int64 [examples, 2 * longest + answers]."""
    longest, count = max(len(example.ids) for example in examples), len(examples[0].answers)
    rows = np.zeros((len(examples), 2 * longest + count), dtype=np.int64)
    rows[:, :longest] = PADDED
    for row, example in zip(rows, examples, strict=True):
        row[: len(example.ids)] = example.ids
        row[longest : longest + len(example.types)] = example.types
        row[2 * longest :] = example.answers
    return rows


class FixedRows:
    """Rows to evaluate on, examples of like length together."""

    def __init__(self, examples: Sequence[Encoded]) -> None:
        self.order = np.argsort([len(example.ids) for example in examples], kind="stable")
        """The number of the example in each row."""
        ordered = [examples[number] for number in self.order]
        self.batches = [
            as_rows(ordered[first : first + _ROWS_AT_ONCE]) for first in range(0, len(ordered), _ROWS_AT_ONCE)
        ]

    def in_order(self, found: Sequence[Any]) -> list[Any]:
        """One finding for each row, in the order of the examples."""
        placed: list[Any] = [None] * len(self.order)
        for number, one in zip(self.order, found, strict=True):
            placed[number] = one
        return placed


class TextBatches:
    """Batches by step: `batches[step]` is int64 [batch_size, 2 * longest + answers], a function of (seed, step).

    Every epoch visits each example once, in an order of its own.
    """

    def __init__(self, examples: Sequence[Encoded], batch_size: int, seed: int) -> None:
        self._examples, self._batch_size, self._seed = examples, batch_size, seed

    def __getitem__(self, step: int) -> np.ndarray:
        positions = np.arange(step * self._batch_size, (step + 1) * self._batch_size)
        epochs, places = np.divmod(positions, len(self._examples))
        numbers = shuffled(places, len(self._examples), seed=self._seed, source=0, epochs=epochs)
        return as_rows([self._examples[number] for number in numbers])


# --- what a model is given -----------------------------------------------------------------------------------


class TextHead(TextObjective):
    """An objective on rows."""

    num_answers: int
    """Columns behind ids and types."""
    outputs_per_token: int = 0
    """Of a head that works on every token; one that works once on a row costs nothing, as everywhere."""

    @cached_property
    def fill(self) -> int:
        return fill_of(self.tokenizer)

    def length(self, batch: np.ndarray | Tensor) -> int:
        """Tokens of a row."""
        return (batch.shape[1] - self.num_answers) // 2

    def given(self, batch: Tensor) -> dict[str, Tensor]:
        """What a model is called with."""
        length = self.length(batch)
        ids, types = batch[:, :length], batch[:, length : 2 * length]
        shown = ids != PADDED
        inputs = {"input_ids": torch.where(shown, ids, self.fill), "attention_mask": shown.long()}
        # BERT alone has a table of types; others would take them for something else
        return inputs | ({"token_type_ids": types} if self.family.setting("type_vocab_size", 1) > 1 else {})

    def inputs(self, batch: Tensor) -> Tensor:
        return self.given(batch)["input_ids"]

    def num_tokens(self, batch: np.ndarray | Tensor) -> int:
        return len(batch) * self.length(batch)

    def weight(self, batch: np.ndarray) -> int:
        return len(batch)

    def flops(self, batch: np.ndarray) -> float:
        """Of a forward pass, counted as everywhere: the layers, and a head on every token; the rows' filling included."""
        length = self.length(batch)
        head = 2 * self.family.dims.hidden_size * self.outputs_per_token
        return len(batch) * length * float(recomputed_flops(self.family, length) + head)

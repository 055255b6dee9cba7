"""How well causal models guess a text: perplexity per token, and bits per byte, which compares over tokenizers.

Each document is read by itself, in windows that overlap, so that a token has up to `window` tokens of its own document
before it. Every token of a document is scored once. Before its first one stands the token that documents are separated
by in training, which is not scored.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ligo.core.checks import check_between
from ligo.core.errors import ConfigError, NumericsError
from ligo.core.log import progress
from ligo.core.run import Run
from ligo.data.config import DataConfig
from ligo.data.sources import documents
from ligo.evaluation.causal import check_causal, check_window, shared_window, token_ids, unknown_tokens
from ligo.evaluation.meter import metered
from ligo.evaluation.models import Model
from ligo.evaluation.registry import EVALUATIONS, EvaluationConfig, EvaluationOfEach, Findings, Row

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(kw_only=True)
class PerplexityConfig(EvaluationConfig):
    """What text is read, and how."""

    name: str = "perplexity"
    task: str = "text"
    """What the text is called in the table."""
    path: str | None = None
    """The text: file or folder, in the forms of ligo.grow's data.path."""
    text_key: str = "text"
    """As data.text_key."""
    group_keys: list[str] = field(default_factory=list)
    """As data.group_keys."""
    document_separator: str = "<|endoftext|>"
    """As data.document_separator."""
    max_documents: int | None = None
    """Read the first documents only."""
    window: int | None = None
    """Tokens that a model sees at once. null: what all of the models take, at most 2,048."""
    stride: int | None = None
    """Tokens that a window is moved on by, and that are scored in it. null: half of the window; window itself is fastest,
    with one token of context after each move."""
    batch_tokens: int = 4096
    """Tokens that are computed at once; for memory, and without a part in the figures but for rounding."""


class Window(NamedTuple):
    """Part of a document, with its prefix: tokens `start` to `end` are read, the last `scored` of them are guessed."""

    start: int
    end: int
    scored: int


def windows(num_tokens: int, window: int, stride: int) -> Iterator[Window]:
    """Windows over a document in which each token but the first, the prefix, is guessed once.

    The last window reaches back as far as it may. With stride = window these are lm-evaluation-harness' rolling windows
    of context length 1.

    Args:
        num_tokens: with the prefix.
        window: most tokens that a model is given; the one guessed last is not given.
        stride: tokens guessed in each window but the first and the last; at most `window`.
    """
    end = min(num_tokens, window + 1)
    yield Window(0, end, end - 1)
    while end < num_tokens:
        scored = min(stride, num_tokens - end)
        end += scored
        yield Window(max(0, end - window - 1), end, scored)


@dataclass(frozen=True)
class TextLoss:
    """What a model's guesses of some documents come to, one entry for each."""

    nats: np.ndarray
    """float64 [documents]: minus the log-likelihood of each."""
    tokens: np.ndarray
    """int64 [documents]: tokens scored."""
    num_bytes: np.ndarray
    """int64 [documents]: of their text in UTF-8."""

    def rows(self, model: str, task: str) -> list[Row]:
        per_token, token_error = ratio(self.nats, self.tokens)
        bits, bits_error = ratio(self.nats / math.log(2), self.num_bytes)
        count = len(self.nats)
        perplexity = math.exp(per_token)
        return [
            Row(
                model=model,
                task=task,
                metric="perplexity",
                value=perplexity,
                standard_error=None if token_error is None else perplexity * token_error,
                count=count,
            ),
            Row(model=model, task=task, metric="bits_per_byte", value=bits, standard_error=bits_error, count=count),
        ]  # fmt: skip


def ratio(numerators: np.ndarray, denominators: np.ndarray) -> tuple[float, float | None]:
    """Sum over sum, and its standard error over the items (Cochran 1977, Sampling Techniques, chapter 6; no finite
    population); None for a single item."""
    total = float(denominators.sum())
    value = float(numerators.sum()) / total
    count = len(numerators)
    if count < 2:
        return value, None
    residuals = numerators - value * denominators
    return value, math.sqrt(count / (count - 1) * float((residuals**2).sum())) / total


def score(
    loaded: Any, texts: Sequence[list[int]], *, window: int, stride: int, batch_tokens: int
) -> np.ndarray:
    """Minus the log-likelihood of each text after its first token: float64 [texts], in nats.

    Args:
        loaded: a causal model of transformers, in evaluation mode.
        texts: token ids, each with the prefix first and at least one more.

    Raises:
        NumericsError: a loss is not finite.
    """
    import torch
    from torch.nn import functional as F

    parts = [(text, part) for text, ids in enumerate(texts) for part in windows(len(ids), window, stride)]
    parts.sort(key=_size, reverse=True)  # little padding, and the batch that takes most memory first
    rows = max(1, batch_tokens // window)
    nats = np.zeros(len(texts))
    with progress("windows", len(parts)) as bar, torch.inference_mode():
        for first in range(0, len(parts), rows):
            batch = parts[first : first + rows]
            ids, guessed = (each.to(loaded.device) for each in _padded(batch, texts))
            logits = loaded(input_ids=ids[:, :-1], use_cache=False).logits[guessed]
            exact = torch.promote_types(logits.dtype, torch.float32)
            losses = F.cross_entropy(logits.to(exact), ids[:, 1:][guessed], reduction="none").double()
            of_rows = losses.split(guessed.sum(1).tolist())
            for (text, _), of_row in zip(batch, of_rows, strict=True):
                nats[text] += float(of_row.sum())
            bar.advance(len(batch))
    if not np.isfinite(nats).all():
        raise NumericsError(
            f"{(~np.isfinite(nats)).sum()} of {len(nats)} documents have a loss that is not finite.\n"
            "  Try: compute.dtype=float32, where it was a shorter one"
        )
    return nats


def _padded(batch: Sequence[tuple[int, Window]], texts: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    """Ids, int64 [rows, longest], and which of them but the first are guessed, bool [rows, longest - 1].

    Padding stands behind, where causal attention does not see it.
    """
    import torch

    longest = max(map(_size, batch))
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    guessed = torch.zeros(len(batch), longest - 1, dtype=torch.bool)
    for row, (text, part) in enumerate(batch):
        size = part.end - part.start
        ids[row, :size] = torch.tensor(texts[text][part.start : part.end])
        guessed[row, size - 1 - part.scored : size - 1] = True
    return ids, guessed


def _size(item: tuple[int, Window]) -> int:
    return item[1].end - item[1].start


@EVALUATIONS.register("perplexity")
class Perplexity(EvaluationOfEach[PerplexityConfig]):
    """Perplexity and bits per byte of each model on one text."""

    Config = PerplexityConfig

    @classmethod
    def check(cls, config: PerplexityConfig) -> None:
        if config.path is None:
            raise ConfigError(
                "evaluation.path is not set: there is no text.\n  Try: evaluation.path=FILE_OR_FOLDER"
            )
        check_between("evaluation.batch_tokens", config.batch_tokens, 1)
        for key in ("max_documents", "window", "stride"):
            if (value := getattr(config, key)) is not None:
                check_between(f"evaluation.{key}", value, 1)

    def prepare(self, models: Sequence[Model]) -> str:
        for model in models:
            check_causal(model)
        window = self.config.window or shared_window(models)
        for model in models:
            check_window(model, window, "evaluation.window")
        self._window, self._stride = window, self.config.stride or (window + 1) // 2
        if self._stride > window:
            raise ConfigError(
                f"evaluation.stride={self._stride} is more than the {window} tokens of a window: some would never be scored.\n"
                f"  Try: evaluation.stride={window}"
            )
        read = documents(self.config.path, _text_options(self.config))
        self._documents = list(islice(read, self.config.max_documents))
        digest = hashlib.sha256()
        for text in self._documents:
            digest.update(hashlib.sha256(text.encode()).digest())
        return digest.hexdigest()

    def evaluate(self, model: Model, run: Run, seed: int) -> Findings:
        texts = token_ids(model, self._documents)
        num_unknown = unknown_tokens(model, texts)
        loaded = model.load()
        with metered(model, loaded) as meter:
            nats = score(
                loaded, texts, window=self._window, stride=self._stride, batch_tokens=self.config.batch_tokens
            )
        loss = TextLoss(
            nats,
            np.array([len(ids) - 1 for ids in texts]),
            np.array([len(text.encode()) for text in self._documents]),
        )
        details = {
            "documents": len(texts),
            "tokens": int(loss.tokens.sum()),
            "bytes": int(loss.num_bytes.sum()),
            "unknown_tokens": num_unknown,
            "window": self._window,
            "stride": self._stride,
        }
        return Findings(rows=loss.rows(model.name, self.config.task), flops=meter.flops, details=details)


@dataclass(kw_only=True)
class _TextOptions(DataConfig):
    """Options of ligo.data under the names that they have here."""

    @property
    def section(self) -> str:
        return "evaluation"


def _text_options(config: PerplexityConfig) -> _TextOptions:
    return _TextOptions(
        path=config.path,
        text_key=config.text_key,
        group_keys=config.group_keys,
        document_separator=config.document_separator,
    )

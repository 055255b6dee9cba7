"""Which text is held out to evaluate on: a function of the text alone, the same whatever the run's seed.

Whole documents are held out; where there are only a few, the tail of the text is.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from itertools import count
from typing import NamedTuple

import numpy as np

from ligo.data.config import DataConfig
from ligo.data.corpus import SPLITS
from ligo.data.sources import documents

SPLIT_SEED = 20230302  # fixed: the same text has the same validation set whatever the run's seed
_FEW_DOCUMENTS = 20  # with fewer, whole documents cannot be held out fairly
_MANY_DOCUMENTS = 1_000_000  # with more, their lengths are not kept in memory
_PIECE_CHARACTERS = 10_000


class Piece(NamedTuple):
    """A document, or a part of one, and the split that it belongs to."""

    split: str
    text: str
    first: bool = True
    last: bool = True


class Lengths(NamedTuple):
    """Characters of the text."""

    total: int
    each: np.ndarray | None
    """Of each document of `path`, int64; None if there are many."""


def count_characters(config: DataConfig) -> Lengths:
    each, many, total = array("q"), False, 0
    for text in documents(config.path, config):
        total += len(text)
        many = many or len(each) >= _MANY_DOCUMENTS
        if not many:
            each.append(len(text))
    if config.validation_path is not None:
        total += sum(len(text) for text in documents(config.validation_path, config))
    return Lengths(total, None if many else np.frombuffer(each, dtype=np.int64))


def split_text(config: DataConfig, lengths: Lengths) -> Iterator[Piece]:
    """All text in order."""
    if config.validation_path is not None:
        for split, path in zip(SPLITS, (config.path, config.validation_path), strict=True):
            for text in documents(path, config):
                yield Piece(split, text)
    elif lengths.each is None or len(lengths.each) >= _FEW_DOCUMENTS:
        held_out = _held_out(lengths, config.validation_fraction)
        for text, held in zip(documents(config.path, config), held_out, strict=False):
            yield Piece(SPLITS[int(held)], text)
    else:
        tail = config.validation_fraction * lengths.total
        # at least two pieces in the tail, however small the text
        size = max(1, min(_PIECE_CHARACTERS, int(tail / 2)))
        position = 0
        for text in documents(config.path, config):
            parts = list(_cut(text, size))
            for index, part in enumerate(parts):
                split = SPLITS[int(position >= lengths.total - tail)]
                yield Piece(split, part, first=index == 0, last=index == len(parts) - 1)
                position += len(part)


def _held_out(lengths: Lengths, fraction: float) -> Iterable[bool]:
    """Whether to hold out each document: in seeded order, as many as fit into `fraction` of the characters, or one.

    Of many documents, each is held out with that chance, which comes to the same.
    """
    # the draw of a document depends on its index only, so text added at the end keeps most of the split
    draws = np.random.default_rng(SPLIT_SEED)
    if lengths.each is None:
        return (draws.random() < fraction for _ in count())
    chosen = np.zeros(len(lengths.each), dtype=bool)
    budget, taken = fraction * lengths.total, 0
    for index in np.argsort(draws.random(len(chosen))):
        if taken + lengths.each[index] <= budget:
            chosen[index] = True
            taken += lengths.each[index]
        if taken >= 0.9 * budget:
            break
    if not chosen.any():
        chosen[np.argmin(lengths.each)] = True
    return map(bool, chosen)


def _cut(text: str, size: int) -> Iterator[str]:
    """Pieces of at most `size` characters that end at a line break where there is one, else at a space."""
    start = 0
    while len(text) - start > size:
        after_line = text.rfind("\n", start, start + size) + 1
        before_word = text.rfind(" ", start + 1, start + size)
        end = after_line or (before_word if before_word > 0 else start + size)
        yield text[start:end]
        start = end
    yield text[start:]

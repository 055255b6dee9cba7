"""Whether a text is like any of many others by ROUGE-L, exactly, and without comparing it with all of them.

ROUGE-L of two texts of m and n tokens is the F-measure of their longest common subsequence: P = lcs / m, R = lcs / n,
F = 2 P R / (P + R) (Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004, section 3). The common
subsequence is never longer than the tokens in common, each counted as often as both have it. So an inverted index from
tokens to texts bounds F for all texts at once, and only the few whose bound reaches the limit are compared.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

import numpy as np

from ligo.core.errors import require

_TOKEN = re.compile(r"[a-z0-9]+")
_ROUNDING = 1e-9
"""Far above what rounding does to F, and far below the step from one length of subsequence to the next."""


def tokens_of(text: str) -> list[str]:
    """Tokens as the rouge-score package makes them by default: lower case, letters and digits of ASCII, no stems."""
    return _TOKEN.findall(text.lower())


def f_measure(lcs: int, m: int, n: int) -> float:
    """ROUGE-L of texts of m and n tokens, rounded as the rouge-score package rounds it."""
    if lcs == 0:
        return 0.0
    precision, recall = lcs / m, lcs / n
    return 2 * precision * recall / (precision + recall)


class Match(NamedTuple):
    """The text that is most alike."""

    number: int
    """Its place in the order of adding."""
    rouge_l: float


class RougeIndex:
    """Texts to compare others with."""

    def __init__(self, limit: float) -> None:
        """
        Args:
            limit: texts are alike when ROUGE-L is above it; from 0 to 1.

        Raises:
            ConfigError: rapidfuzz is not installed.
        """
        fuzz = require("rapidfuzz", extra="instruct", why="comparing instructions by ROUGE-L")
        self._lcs = fuzz.distance.LCSseq.similarity
        self._limit = limit
        self._vocabulary: dict[str, int] = {}
        self._texts: list[list[int]] = []
        self._lengths = _Numbers()
        self._having: dict[tuple[int, int], _Numbers] = {}
        """(token, k) -> the texts that have the token at least k times: so sets stand for bags of tokens."""

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, text: str) -> None:
        """Compare later texts with this one too."""
        ids = [self._vocabulary.setdefault(token, len(self._vocabulary)) for token in tokens_of(text)]
        for key in _numbered(ids):
            self._having.setdefault(key, _Numbers()).append(len(self._texts))
        self._texts.append(ids)
        self._lengths.append(len(ids))

    def most_alike(self, text: str) -> Match | None:
        """The text with the highest ROUGE-L above the limit, the first of several; None where none is above it."""
        # tokens that no text has count for the length alone
        ids = [self._vocabulary.get(token, -1 - at) for at, token in enumerate(tokens_of(text))]
        holders = [self._having[key].values for key in _numbered(ids) if key in self._having]
        if not holders:
            return None
        common = np.bincount(np.concatenate(holders), minlength=len(self))
        bounds = 2 * common / (self._lengths.values + len(ids))
        best: Match | None = None
        for number in np.flatnonzero(bounds > self._limit - _ROUNDING).tolist():
            known = self._texts[number]
            rouge_l = f_measure(self._lcs(ids, known), len(ids), len(known))
            if rouge_l > (self._limit if best is None else best.rouge_l):
                best = Match(number, rouge_l)
        return best


def _numbered(ids: list[int]) -> list[tuple[int, int]]:
    """(token, k) for the k-th time that a token stands there."""
    seen: Counter[int] = Counter()
    keys = []
    for token in ids:
        seen[token] += 1
        keys.append((token, seen[token]))
    return keys


class _Numbers:
    """A growing array of int32."""

    def __init__(self) -> None:
        self._room, self._count = np.empty(4, dtype=np.int32), 0

    def append(self, value: int) -> None:
        if self._count == len(self._room):
            self._room = np.concatenate([self._room, np.empty_like(self._room)])
        self._room[self._count] = value
        self._count += 1

    @property
    def values(self) -> np.ndarray:
        return self._room[: self._count]

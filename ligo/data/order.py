"""Which window comes when: two formulas, so that any step is found at once and nothing is kept.

A *schedule* deals positions out to sources by their weights. It is Pfair scheduling (Baruah et al. 1996): window j of
a source of weight w has the slots from floor(j / w) to ceil((j + 1) / w), and the earliest of those deadlines goes
first. So at any position, each source has been drawn within one window of its weight. As weights are fractions, all
are on their marks together after as many positions as their common denominator, and the same slots begin again.

A *permutation* shuffles the windows of a source anew in every epoch. It is a Feistel network on the bits of the
number, walked until it falls into the range (Black and Rogaway 2002), so that it takes no memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

_ROUNDS = 8


class Schedule:
    """The source of every position."""

    def __init__(self, weights: Sequence[Fraction]) -> None:
        """
        Args:
            weights: fractions that sum to 1.
        """
        self._period = math.lcm(*(weight.denominator for weight in weights))
        self._share = np.array([int(weight * self._period) for weight in weights])
        drawn = [0] * len(weights)
        self._source = np.empty(self._period, dtype=np.int64)
        self._before = np.empty(self._period, dtype=np.int64)
        period, share = self._period, self._share.tolist()
        for slot in range(period):
            released = [k for k in range(len(share)) if drawn[k] * period < (slot + 1) * share[k]]
            source = min(released, key=lambda k: -(-(drawn[k] + 1) * period // share[k]))
            self._source[slot], self._before[slot] = source, drawn[source]
            drawn[source] += 1

    def at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The source of each position, and how often that source has come before; both int64 [positions]."""
        periods, slot = np.divmod(positions, self._period)
        source = self._source[slot]
        return source, periods * self._share[source] + self._before[slot]

    def counts(self, num_positions: int) -> np.ndarray:
        """How often each source comes among the first positions, int64 [sources]."""
        periods, rest = divmod(num_positions, self._period)
        return periods * self._share + np.bincount(self._source[:rest], minlength=len(self._share))


def shuffled(numbers: np.ndarray, count: int, *, seed: int, source: int, epochs: np.ndarray) -> np.ndarray:
    """Where the permutations of 0 .. count - 1 that belong to (seed, source, epoch) take each number.

    Args:
        numbers: int64 [n], below `count`.
        epochs: int64 [n].

    Returns:
        int64 [n].
    """
    key = _mix(_of_source(seed, source) + epochs.astype(np.uint64))
    bits = max(2, (count - 1).bit_length())
    low = np.uint64(bits // 2)
    low_mask, high_mask = np.uint64(2 ** (bits // 2) - 1), np.uint64(2 ** (bits - bits // 2) - 1)
    places = numbers.astype(np.uint64)
    outside = np.ones(len(places), dtype=bool)
    while outside.any():
        high, rest = places[outside] >> low, places[outside] & low_mask
        for number in range(_ROUNDS):
            round_key = _mix(key[outside] + np.uint64(number))
            if number % 2:
                rest = rest ^ (_mix(high ^ round_key) & low_mask)
            else:
                high = high ^ (_mix(rest ^ round_key) & high_mask)
        places[outside] = high << low | rest
        outside = places >= count
    return places.astype(np.int64)


def draws(numbers: np.ndarray, *, seed: int, source: int) -> np.ndarray:
    """64 random bits for each window of a source by how often the source came before, uint64 [n]."""
    return _mix(_mix(~_of_source(seed, source)) + numbers.astype(np.uint64))


def _of_source(seed: int, source: int) -> np.ndarray:
    return _mix(_mix(np.uint64(seed % 2**64)) + np.uint64(source))


def _mix(numbers: np.ndarray | np.uint64) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele et al. 2014): every bit of the input moves every bit of the output."""
    x = np.atleast_1d(numbers) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))

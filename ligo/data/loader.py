"""From tokens to batches. The whole way of the data, told once:

    stage               what comes out                                    state
    sources.documents   documents, str                                    none: always the same order
    tokenize.prepare    Corpus: two streams of token ids, uint [tokens]   the cache folder
    Batches[step]       int64 [batch_size, sequence_length + 1]           none: a function of (seed, step)
    rank_slice          int64 [batch_size / ranks, sequence_length + 1]   none

The training stream is cut into windows of `sequence_length` inputs; a window has one token more, the label of
its last input, which is also the first input of the next window. Every epoch visits each window once, in an
order of its own drawn from (seed, epoch). So the position in the data is the step, and nothing else has to be
saved to resume; a run on other ranks sees the same batches.

Labelled images (`images.Images`, int64 [batch_size, pixels + 1]) go the same way: an image is a window.
"""

from __future__ import annotations

import numpy as np

from ligo.core.errors import ConfigError
from ligo.data.images import Images
from ligo.data.tokenize import Corpus


class Batches:
    """Training batches by step: `batches[step]` is int64 [batch_size, sequence_length + 1].

    The same seed and step give the same batch, in any order of asking. Steps go on without end; a batch may
    hold the end of one epoch and the beginning of the next. Tokens after the last whole window are left out.

    Raises:
        DataError: the corpus is shorter than one window.
    """

    def __init__(self, corpus: Corpus | Images, sequence_length: int, batch_size: int, seed: int) -> None:
        corpus.check_length(sequence_length)
        self._corpus, self._length = corpus, sequence_length
        self._batch_size, self._seed = batch_size, seed
        self.num_windows = corpus.num_windows("train", sequence_length)
        """Windows per epoch."""
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def __getitem__(self, step: int) -> np.ndarray:
        if step < 0:
            raise IndexError(f"step {step} is negative")
        first = step * self._batch_size
        windows = [
            self._order_of(position // self.num_windows)[position % self.num_windows]
            for position in range(first, first + self._batch_size)
        ]
        return self._corpus.windows("train", np.asarray(windows), self._length)

    def _order_of(self, epoch: int) -> np.ndarray:
        """A permutation of the windows, int64 [num_windows]; the last one asked for is kept."""
        if epoch != self._epoch:
            # sorting raw draws, because numpy promises these (not its `permutation`) for all its versions
            key = np.array([self._seed % 2**64, epoch], dtype=np.uint64)
            draws = np.random.Philox(key=key).random_raw(self.num_windows)
            self._epoch, self._order = epoch, np.argsort(draws, kind="stable")
        return self._order


def validation_batches(
    corpus: Corpus | Images, sequence_length: int, batch_size: int, max_tokens: int
) -> list[np.ndarray]:
    """The fixed evaluation set: always the same, whatever the seed.

    Its windows do not overlap: no token is predicted twice. When the validation stream is longer than
    `max_tokens`, they are spread evenly over it.

    Returns:
        int64 [<= batch_size, sequence_length + 1] each; only the last has fewer than batch_size windows.

    Raises:
        ConfigError: max_tokens is less than one sequence.
        DataError: the validation stream is shorter than one window.
    """
    if max_tokens < sequence_length:
        raise ConfigError(
            f"data.validation_tokens={max_tokens} is less than one sequence of {sequence_length} tokens.\n"
            f"  Try: data.validation_tokens={256 * sequence_length}"
        )
    corpus.check_length(sequence_length)
    available = corpus.num_windows("validation", sequence_length)
    count = min(available, max_tokens // sequence_length)
    spread = np.arange(count) * available // count
    return [
        corpus.windows("validation", spread[first : first + batch_size], sequence_length)
        for first in range(0, count, batch_size)
    ]


def rank_slice(batch: np.ndarray, rank: int, world_size: int) -> np.ndarray:
    """The windows of one rank: a contiguous part of the batch, int64 [batch_size / world_size, length + 1].

    Raises:
        ConfigError: the batch does not divide by the number of ranks.
    """
    share, rest = divmod(len(batch), world_size)
    if rest:
        raise ConfigError(
            f"a batch of {len(batch)} sequences does not divide by {world_size} ranks.\n"
            f"  Try: a batch of {max(share, 1) * world_size} sequences, "
            f"or a number of ranks that divides {len(batch)}"
        )
    return batch[rank * share : (rank + 1) * share]

"""From tokens to batches. The whole way of the data, told once:

    stage                 what comes out                                      state
    sources.documents     documents, str                                      none: always the same order
    tokenize.prepare      Corpus: two streams of token ids in shards          the cache folder
    mixture.prepare_text  one Corpus, or a Mixture of several with weights    none
    Batches[step]         int64 [batch_size, sequence_length + 1]             none: a function of (seed, step)
    prefetched[step]      the same, made while the step before is taken       none that matters
    rank_slice            int64 [batch_size / ranks, sequence_length + 1]     none

The training stream of a corpus is cut into windows of `sequence_length` inputs; a window has one token more, the
label of its last input, which is also the first input of the next window. The sources of a mixture take turns by
their weights. Every epoch of a source visits each of its windows once, in an order of its own that follows from
(seed, source, epoch). So the position in the data is the step, and nothing else has to be saved to resume; a run on
other ranks sees the same batches.

Labelled images (`images.Images`, int64 [batch_size, pixels + 1]) go the same way: an image is a window. How one is mirrored
or moved (data.augment) follows from (seed, source, how many windows of it came before).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np

from ligo.core.errors import ConfigError, DataError
from ligo.core.log import say
from ligo.data.config import DataConfig
from ligo.data.corpus import Corpus
from ligo.data.images import Images
from ligo.data.mixture import Mixture
from ligo.data.order import Schedule, draws, shuffled

Data = Corpus | Images | Mixture
"""What batches are drawn from."""


class Batches:
    """Training batches by step: `batches[step]` is int64 [batch_size, sequence_length + 1].

    The same seed and step give the same batch, in any order of asking. Steps go on without end; a batch may
    hold the end of one epoch and the beginning of the next. Tokens after the last whole window are left out.

    Raises:
        DataError: a corpus is shorter than one window.
    """

    def __init__(self, data: Data, sequence_length: int, batch_size: int, seed: int) -> None:
        data.check_length(sequence_length)
        sources, weights = _sources(data)
        self._sources, self._schedule = sources, Schedule(weights)
        self._length, self._batch_size, self._seed = sequence_length, batch_size, seed
        self.source_names = list(sources)
        self.num_windows = {
            name: part.num_windows("train", sequence_length) for name, part in sources.items()
        }
        """Windows per epoch of each source."""

    def __getitem__(self, step: int) -> np.ndarray:
        drawn_from, index = self._schedule.at(self._positions(step))
        batch: np.ndarray | None = None
        for number, (name, source) in enumerate(self._sources.items()):
            rows = np.flatnonzero(drawn_from == number)
            if len(rows) == 0:
                continue
            count = self.num_windows[name]
            epochs, place = np.divmod(index[rows], count)
            numbers = shuffled(place, count, seed=self._seed, source=number, epochs=epochs)
            windows = source.windows("train", numbers, self._length)
            if isinstance(source, Images):
                windows = source.augmented(windows, draws(index[rows], seed=self._seed, source=number))
            if batch is None:
                batch = np.empty((self._batch_size, windows.shape[1]), dtype=np.int64)
            batch[rows] = windows
        assert batch is not None, "a batch has windows"
        return batch

    def sources(self, step: int) -> np.ndarray:
        """The source of each window of a batch, as its place in `source_names`: int64 [batch_size]."""
        return self._schedule.at(self._positions(step))[0]

    def epochs(self, step: int) -> dict[str, float]:
        """How often each source has been gone through before a step."""
        drawn = self._schedule.counts(step * self._batch_size)
        return {
            name: float(count / self.num_windows[name])
            for name, count in zip(self.source_names, drawn, strict=True)
        }

    def _positions(self, step: int) -> np.ndarray:
        if step < 0:
            raise IndexError(f"step {step} is negative")
        return np.arange(step * self._batch_size, (step + 1) * self._batch_size)


def _sources(data: Data) -> tuple[Mapping[str, Corpus | Images], Sequence[Fraction]]:
    """Sources by name, and their weights."""
    if isinstance(data, Mixture):
        return data.sources, [data.weights[name] for name in data.sources]
    return {data.name: data}, [Fraction(1)]


def check_budget(data: Data, config: DataConfig, num_windows: int) -> None:
    """Say, before a run of so many windows, how often each source of it will be gone through.

    Of a single source that is said only where it ends before the run does.

    Raises:
        DataError: a source ends before that, and data.when_exhausted=stop.
    """
    epochs = Batches(data, config.sequence_length, 1, 0).epochs(num_windows)
    over = [name for name, times in epochs.items() if times > 1]
    if over and config.when_exhausted == "stop":
        first = max(over, key=lambda name: epochs[name])
        raise DataError(
            f"the data '{first}' ends after {100 / epochs[first]:.3g} % of the run, which would go through it "
            f"{epochs[first]:.3g} times, and data.when_exhausted=stop.\n"
            f"  Try: train.max_tokens={int(num_windows / epochs[first]) * config.sequence_length}, "
            "or data.when_exhausted=repeat, or more text"
        )
    if over or len(epochs) > 1:
        repeated = f"; {', '.join(over)} will be repeated, in a new order each time" if over else ""
        say("epochs: " + ", ".join(f"{name} {times:.2f}" for name, times in epochs.items()) + repeated)


def validation_batches(
    data: Data, sequence_length: int, batch_size: int, max_tokens: int
) -> list[np.ndarray]:
    """The fixed evaluation set: always the same, whatever the seed. Of a mixture, that of its sources in turn.

    Returns:
        int64 [<= batch_size, sequence_length + 1] each.

    Raises:
        ConfigError: max_tokens is less than one sequence.
        DataError: the validation stream is shorter than one window.
    """
    by_source = validation_by_source(data, sequence_length, batch_size, max_tokens)
    return [batch for batches in by_source.values() for batch in batches]


def validation_by_source(
    data: Data, sequence_length: int, batch_size: int, max_tokens: int
) -> dict[str, list[np.ndarray]]:
    """The same, by the name of the source: of each as many windows as its weight asks for, but one at least.

    Its windows do not overlap: no token is predicted twice. When a validation stream is longer than is needed,
    they are spread evenly over it. Only the last batch of a source has fewer than batch_size windows.
    """
    if max_tokens < sequence_length:
        raise ConfigError(
            f"data.validation_tokens={max_tokens} is less than one sequence of {sequence_length} tokens.\n"
            f"  Try: data.validation_tokens={256 * sequence_length}"
        )
    data.check_length(sequence_length)
    sources, weights = _sources(data)
    wanted = Schedule(weights).counts(max_tokens // sequence_length)
    batches = {}
    for (name, source), share in zip(sources.items(), wanted, strict=True):
        available = source.num_windows("validation", sequence_length)
        count = min(available, max(1, int(share)))
        spread = np.arange(count) * available // count
        batches[name] = [
            source.windows("validation", spread[first : first + batch_size], sequence_length)
            for first in range(0, count, batch_size)
        ]
    return batches


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

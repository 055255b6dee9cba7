from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ligo.core.errors import ConfigError, DataError
from ligo.data.corpus import Corpus, TokenStream
from ligo.data.loader import Batches, rank_slice, validation_batches

LENGTH = 8


def corpus(train: int = 8 * 13 + 5, validation: int = 8 * 40 + 1) -> Corpus:
    """Each token is its own position, so that a window tells where it came from."""
    return Corpus(
        train=TokenStream.of(np.arange(train, dtype=np.uint16)),
        validation=TokenStream.of(np.arange(validation, dtype=np.uint16)),
        fingerprint="f",
        name="counting",
        num_documents=1,
        bytes_per_token=1.0,
    )


def batches(**changes: Any) -> Batches:
    return Batches(corpus(), **{"sequence_length": LENGTH, "batch_size": 4, "seed": 0, **changes})


def test_shape_and_labels() -> None:
    batch = batches()[0]
    assert batch.shape == (4, LENGTH + 1)
    assert batch.dtype == np.int64
    assert (np.diff(batch, axis=1) == 1).all()
    assert (batch[:, 0] % LENGTH == 0).all()


def test_batches_are_a_pure_function_of_seed_and_step() -> None:
    steps = [0, 5, 3, 100, 3, 0]
    one = batches()
    forwards = {step: batches()[step] for step in sorted(set(steps))}
    for step in steps:
        assert np.array_equal(one[step], forwards[step])
    assert not np.array_equal(batches(seed=1)[0], forwards[0])
    assert not np.array_equal(batches(seed=-1)[0], forwards[0])


def test_order_is_the_same_on_every_machine() -> None:
    # golden: a Feistel network keyed by (seed, source, epoch); a change here changes every resumed run
    assert (batches(seed=7)[0][:, 0] // LENGTH).tolist() == [8, 5, 3, 2]


def test_each_epoch_visits_each_window_once_and_batches_straddle_epochs() -> None:
    data = batches()
    assert data.num_windows == {"counting": 13}  # no multiple of the batch size
    starts = np.concatenate([data[step][:, 0] for step in range(13)]) // LENGTH
    epochs = starts.reshape(4, 13)
    for epoch in epochs:
        assert sorted(epoch) == list(range(13))
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_batch_larger_than_an_epoch() -> None:
    starts = batches(batch_size=30)[0][:, 0] // LENGTH
    assert sorted(starts[:13]) == sorted(starts[13:26]) == list(range(13))


def test_batch_content_does_not_depend_on_how_steps_are_cut() -> None:
    whole = np.concatenate([batches(batch_size=2)[step] for step in range(12)])
    assert np.array_equal(whole, np.concatenate([batches(batch_size=6)[step] for step in range(4)]))


def test_negative_step() -> None:
    with pytest.raises(IndexError, match="step -1 is negative"):
        batches()[-1]


def test_corpus_shorter_than_a_window() -> None:
    with pytest.raises(
        DataError, match=r"too little train text in data 'counting': 109 tokens, but one sequence"
    ):
        batches(sequence_length=109)
    assert batches(sequence_length=108).num_windows == {"counting": 1}


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_rank_slices_are_disjoint_and_make_up_the_batch(world_size: int) -> None:
    batch = batches()[0]
    slices = [rank_slice(batch, rank, world_size) for rank in range(world_size)]
    assert {len(part) for part in slices} == {4 // world_size}
    assert np.array_equal(np.concatenate(slices), batch)


def test_ranks_that_do_not_divide_the_batch() -> None:
    with pytest.raises(ConfigError) as caught:
        rank_slice(batches()[0], 0, 3)
    assert "a batch of 4 sequences does not divide by 3 ranks" in str(caught.value)
    assert "Try: a batch of 3 sequences, or a number of ranks that divides 4" in str(caught.value)


def test_validation_predicts_every_token_once() -> None:
    parts = validation_batches(corpus(), LENGTH, 16, 10_000)
    assert [part.shape for part in parts] == [(16, LENGTH + 1), (16, LENGTH + 1), (8, LENGTH + 1)]
    assert parts[0].dtype == np.int64
    assert np.concatenate(parts)[:, 1:].ravel().tolist() == list(range(1, 8 * 40 + 1))


def test_validation_is_spread_evenly_and_always_the_same() -> None:
    parts = validation_batches(corpus(), LENGTH, 4, 10 * LENGTH + 3)
    windows = np.concatenate(parts)[:, 0] // LENGTH
    assert windows.tolist() == list(range(0, 40, 4))
    again = validation_batches(corpus(), LENGTH, 4, 10 * LENGTH + 3)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


def test_validation_set_smaller_than_a_sequence() -> None:
    with pytest.raises(ConfigError, match=r"data\.validation_tokens=7 is less than one sequence of 8 tokens"):
        validation_batches(corpus(), LENGTH, 4, 7)
    with pytest.raises(DataError, match=r"too little validation text .*: 8 tokens, but one sequence needs 9"):
        validation_batches(corpus(validation=8), LENGTH, 4, 100)

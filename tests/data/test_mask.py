"""Hidden tokens: how many, which, what is shown instead; the same for the same window wherever it stands."""

from __future__ import annotations

import numpy as np
import pytest

from ligo.data.mask import CHOSEN, MASKED, REPLACED, mask_tokens

MASK_ID, SPECIAL_IDS, VOCAB = 1, [0, 1, 7], 50
ROUNDS = 4000  # windows, so that shares are known to about 0.3 %
SHARE = 0.01  # three standard deviations of the rarest share over ROUNDS windows of 3 hidden tokens


def hide(windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return mask_tokens(windows, mask_id=MASK_ID, special_ids=SPECIAL_IDS, vocab_size=VOCAB)


@pytest.fixture(scope="module")
def windows() -> np.ndarray:
    return np.random.default_rng(0).integers(0, VOCAB, (ROUNDS, 20))


def test_equally_many_positions_are_chosen_in_every_window(windows: np.ndarray) -> None:
    _, chosen = hide(windows)
    assert (chosen.sum(axis=1) == round(CHOSEN * 20)).all()


def test_of_these_most_show_the_mask_some_a_random_token_some_themselves(windows: np.ndarray) -> None:
    shown, chosen = hide(windows)
    assert (shown[~chosen] == windows[~chosen]).all()
    seen, true = shown[chosen], windows[chosen]
    by_chance = REPLACED / (VOCAB - len(SPECIAL_IDS))  # a random token may be the true one
    assert abs((seen == MASK_ID).mean() - MASKED) < 2 * SHARE
    assert abs((seen == true).mean() - (1 - MASKED - REPLACED) - by_chance) < 2 * SHARE
    assert abs(((seen != MASK_ID) & (seen != true)).mean() - REPLACED + by_chance) < 2 * SHARE


def test_special_tokens_are_neither_chosen_nor_put_in(windows: np.ndarray) -> None:
    shown, chosen = hide(windows)
    assert np.isin(windows, SPECIAL_IDS).any()
    assert not chosen[np.isin(windows, SPECIAL_IDS)].any()
    assert not np.isin(shown[chosen & (shown != MASK_ID)], SPECIAL_IDS).any()
    few = np.zeros((1, 20), dtype=np.int64)
    few[0, 5] = 9
    assert hide(few)[1].sum() == 1  # there is nothing else to choose


def test_a_window_is_hidden_alike_in_any_batch_and_any_time(windows: np.ndarray) -> None:
    shown, chosen = hide(windows[:8])
    for row in range(8):
        alone = hide(windows[row : row + 1])
        assert np.array_equal(alone[0][0], shown[row])
        assert np.array_equal(alone[1][0], chosen[row])
    assert len({tuple(np.flatnonzero(row)) for row in chosen}) > 4  # but windows differ


def test_every_position_is_chosen_equally_often(windows: np.ndarray) -> None:
    ordinary = ~np.isin(windows, SPECIAL_IDS)
    often = (hide(windows)[1].sum(axis=0) / ordinary.sum(axis=0)).round(3)
    assert np.ptp(often) < 4 * SHARE


def test_choices_are_the_same_on_every_machine() -> None:
    # golden: Philox keyed by a hash of the window; a change here changes every resumed run
    shown, chosen = hide(np.arange(15, 47)[None])
    assert np.flatnonzero(chosen[0]).tolist() == [5, 13, 15, 18, 21]
    assert shown[chosen].tolist() == [20, MASK_ID, MASK_ID, MASK_ID, 36]  # 20 is itself, 36 is random

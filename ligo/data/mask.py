"""Which tokens a masked language model has to guess (BERT, Devlin et al. 2019, arXiv 1810.04805, section 3.1).

What is hidden in a window follows from the tokens of that window alone. So it is the same after a restart, on
any number of ranks, in micro-batches of any size, and in every evaluation; also in every epoch, as in BERT
(masks drawn anew are slightly better, RoBERTa, Liu et al. 2019, arXiv 1907.11692, table 1).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

CHOSEN = 0.15
"""Part of the positions of a window that are to be guessed."""
MASKED, REPLACED = 0.8, 0.1
"""Parts of these that show the mask token, and a random token; the rest show what they are."""


def mask_tokens(
    windows: np.ndarray, *, mask_id: int, special_ids: Sequence[int], vocab_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Hide tokens of int64 windows [batch, length].

    Equally many positions are chosen in every window, so that means over parts of a batch average to the mean
    over all of it. Special tokens are never chosen, and no random token is one.

    Returns:
        What the model is shown, int64, and which positions it has to guess, bool; both [batch, length].
    """
    ordinary_ids = np.setdiff1d(np.arange(vocab_size), [*special_ids, mask_id])
    draws = np.stack([_draws(window) for window in windows])
    order, action, replacement = draws[:, 0], draws[:, 1] / 2**64, draws[:, 2]

    special = ~np.isin(windows, ordinary_ids)
    count = max(1, round(CHOSEN * windows.shape[1]))
    first = np.argsort(np.where(special, np.iinfo(np.uint64).max, order), axis=1, kind="stable")[:, :count]
    chosen = np.zeros(windows.shape, dtype=bool)
    np.put_along_axis(chosen, first, True, axis=1)
    chosen &= ~special

    random_ids = ordinary_ids[replacement % len(ordinary_ids)]
    shown = np.where(chosen & (action < MASKED), mask_id, windows)
    replaced = chosen & (action >= MASKED) & (action < MASKED + REPLACED)
    return np.where(replaced, random_ids, shown), chosen


def _draws(window: np.ndarray) -> np.ndarray:
    """Three random numbers per position, uint64 [3, length], that follow from the window's tokens."""
    digest = hashlib.blake2b(window.astype("<i8").tobytes(), digest_size=16).digest()
    generator = np.random.Philox(key=np.frombuffer(digest, dtype="<u8"))
    return generator.random_raw(3 * len(window)).reshape(3, -1)

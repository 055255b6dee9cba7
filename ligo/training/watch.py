"""Whether training goes well: steps that cannot be used, losses that jump, data that is left out because of them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median

_WINDOW = 32  # losses that a new one is compared with
_BEGIN = 8  # before there are so many, nothing is a spike
MOST_BAD = 3
"""So many steps in a row without a finite loss and gradient end a run."""
MOST_REWINDS = 10
"""A run that had to go back this often is left to a person."""

OK, BAD, SCALED, SPIKE = "ok", "bad", "scaled", "spike"


@dataclass
class Health:
    """What has been seen so far. It is part of a checkpoint, so that a resumed run judges as one never stopped."""

    skipped_steps: int = 0
    bad_in_a_row: int = 0
    rewinds: int = 0
    left_out: list[tuple[int, int]] = field(default_factory=list)
    """Ranges of batches that are not trained on: first, and the one after the last; sorted, apart from each other."""
    recent: list[float] = field(default_factory=list)
    """The last finite losses."""

    def judge(self, loss: float, norm: float | None, *, spike_factor: float, scales_losses: bool) -> str:
        """Take note of a step: `OK`, `BAD` (not taken), `SCALED` (not taken, fp16 looks for its scale) or `SPIKE`.

        Args:
            norm: of the gradient, before clipping; None where it is not known.
            spike_factor: times the median of recent losses; 0 for never.
            scales_losses: whether gradients that are too large for fp16 are part of the course of things.
        """
        finite_norm = norm is None or math.isfinite(norm)
        if not (math.isfinite(loss) and finite_norm):
            self.skipped_steps += 1
            if math.isfinite(loss) and scales_losses:
                return SCALED
            self.bad_in_a_row += 1
            return BAD
        self.bad_in_a_row = 0
        spikes = len(self.recent) >= _BEGIN and loss > spike_factor * median(self.recent) > 0
        self.recent = [*self.recent, loss][-_WINDOW:]
        return SPIKE if spike_factor and spikes else OK

    def leave_out(self, first: int, end: int) -> None:
        """Leave the batches from `first` to before `end` out from now on."""
        self.left_out = merged([*self.left_out, (first, end)])

    def batch_of(self, step: int) -> int:
        """The batch that a step trains on: steps take the batches in order, but for those left out."""
        batch = step
        for first, end in self.left_out:
            if first <= batch:
                batch += end - first
        return batch


def merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges in order, those that touch joined."""
    joined: list[tuple[int, int]] = []
    for first, end in sorted((int(a), int(b)) for a, b in ranges):
        if joined and first <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((first, end))
    return joined

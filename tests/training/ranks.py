"""What torchrun starts: moments into engines of several ranks and out again; says so on rank 0."""

from __future__ import annotations

from dataclasses import replace

import torch

from ligo.core import distributed
from ligo.data.loader import rank_slice
from ligo.training.config import batch_shape
from ligo.training.engines import make_engine
from ligo.training.models import fresh_model
from ligo.training.objectives import make_objective
from tests.training.arms import CONFIG, LENGTH
from tests.training.test_moments import FAMILY, batch, some_moments

if __name__ == "__main__":
    ranks, moments = distributed.world_size(), some_moments()
    config = replace(CONFIG, engine="deepspeed", batch_tokens=2 * ranks * LENGTH)
    windows = rank_slice(batch(0)[: 2 * ranks], distributed.rank(), ranks)
    for stage in (1, 3):
        keys = {"zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 10}}
        model, shape = fresh_model(FAMILY.config, 0), batch_shape(config, LENGTH, ranks)
        engine = make_engine(model, make_objective(FAMILY), config, shape, keys)
        before = engine.weights()
        engine.load_moments(7, moments, windows)
        (steps, found), after = engine.moments(), engine.weights()
        if distributed.is_main():
            same = all(torch.equal(a, b) for n in moments for a, b in zip(moments[n], found[n], strict=True))
            untouched = all(torch.equal(before[n], after[n]) for n in before)
            print(f"stage {stage}: {steps} steps, moments {same}, weights {untouched}")
        else:
            assert not found and not after
        engine.close()
    distributed.stop()

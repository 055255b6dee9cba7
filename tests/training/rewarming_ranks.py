"""What torchrun starts: new coordinates that begin anew on several ranks; prints the losses of every ZeRO stage."""

from __future__ import annotations

import json
from dataclasses import replace

from ligo.core import distributed
from ligo.data.loader import rank_slice
from tests.training.arms import CONFIG, SyntheticWindows
from tests.training.test_optim import REWARMING, STAGES, rewarmed

if __name__ == "__main__":
    for stage in STAGES:
        engine = rewarmed(replace(REWARMING, engine="deepspeed"), stage)
        losses = [
            engine.step(
                rank_slice(SyntheticWindows()[step], distributed.rank(), distributed.world_size()), CONFIG.lr
            )[0]
            for step in range(6)
        ]
        engine.close()
        if distributed.is_main():
            print(json.dumps({"stage": stage, "losses": losses}))
    distributed.stop()

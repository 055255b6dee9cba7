"""What torchrun starts: tuning runs by DeepSpeed on several ranks, one after another."""

from __future__ import annotations

import sys
from pathlib import Path

from ligo.core import distributed
from tests.tuning.tuned import run

RATES = {"lora": "2e-2", "vera": "2e-1", "qlora": "2e-2"}
STAGES = {"lora": (1, 3), "vera": (2,), "qlora": (2, 3)}

if __name__ == "__main__":
    out, base, data = sys.argv[1:]
    distributed.start()
    for method, rate in RATES.items():
        for stage in STAGES[method]:
            run(
                Path(out) / f"{method}-zero{stage}", Path(base), Path(data), f"tuning={method}", f"train.lr={rate}",
                "train.engine=deepspeed", f"deepspeed=zero{stage}", "tuning.force_zero3=true",
            )  # fmt: skip
    distributed.stop()

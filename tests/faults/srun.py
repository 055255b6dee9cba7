"""Starts N ranks as Slurm does: SLURM_PROCID and its like are all that they are told."""

from __future__ import annotations

import os
import subprocess
import sys

if __name__ == "__main__":
    number, folder = int(sys.argv[1]), sys.argv[2]
    tasks = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.faults.rank", folder],
            env={
                **os.environ,
                "SLURM_PROCID": str(rank),
                "SLURM_NTASKS": str(number),
                "SLURM_LOCALID": str(rank),
            },
        )
        for rank in range(number)
    ]
    for task in tasks:
        task.wait()

"""make bench-train: what training survives, and how fast it is beside its peers.

Figures go to benchmarks/results/train.json; the last line printed is one line of JSON. $NANOGPT names a folder with nanoGPT's
code, without which its row says `"ok": null`.
"""

from __future__ import annotations

from benchmarks.common import finish, run_measures
from benchmarks.data import pipeline_rows, tokenise_rows
from benchmarks.faults import fault_rows
from benchmarks.throughput import nanogpt_rows, trainer_rows
from ligo.core.libraries import quiet_libraries

if __name__ == "__main__":
    quiet_libraries()
    finish("train", *run_measures([trainer_rows, nanogpt_rows, tokenise_rows, pipeline_rows, fault_rows]))

"""make bench-scale: what growth takes at the sizes that people have, and how well its plan tells that before.

Figures go to benchmarks/results/scale.json; the last line printed is one line of JSON.
"""

from __future__ import annotations

from benchmarks import forward, plan
from benchmarks.common import finish, run_measures
from benchmarks.scale_learn import learning_rows
from benchmarks.writing import writing_rows

if __name__ == "__main__":
    planned = (plan.memory_rows, plan.flops_rows, plan.plan_time_rows)
    finish("scale", *run_measures([*forward.MEASURES, *planned, learning_rows, writing_rows]))

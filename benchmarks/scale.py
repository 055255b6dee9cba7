"""make bench-scale: what growth takes at the sizes that people have.

Figures go to benchmarks/results/scale.json; the last line printed is one line of JSON.
"""

from __future__ import annotations

from benchmarks import forward
from benchmarks.common import finish, run_measures
from benchmarks.writing import writing_rows

if __name__ == "__main__":
    finish("scale", *run_measures([*forward.MEASURES, writing_rows]))

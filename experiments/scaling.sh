#!/usr/bin/env bash
# experiments/scaling.sh data.path=TEXT [data.validation_path=TEXT] [more options]: three widths at three horizons, the reports.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
for heads in 4 8 12; do  # of 12 coordinates each
  target=$((heads * 5 / 4))
  small=(small.shape.hidden_size=$((12 * heads)) small.shape.num_attention_heads=$heads small.shape.num_key_value_heads=$heads
    small.shape.intermediate_size=$((32 * heads)))
  grown=(target.hidden_size=$((12 * target)) target.num_attention_heads=$target target.num_key_value_heads=$target
    target.intermediate_size=$((32 * target)))
  "$python" -m ligo.sweep +study=llama-small study.name=scaling-small-$heads "${small[@]}" "$@"
  path=$("$python" -m ligo.sweep best scaling-small-$heads 'small (decayed)')/small
  "$python" -m ligo.sweep +study=scaling study.name=scaling-$heads small.path="$path" "${grown[@]}" "$@"
  "$python" -m ligo.report runs/scaling-$heads
  mkdir -p experiments/scaling/$heads-heads
  cp runs/scaling-$heads/results.json runs/scaling-$heads/table.md runs/scaling-$heads/report.html experiments/scaling/$heads-heads/
done
"$python" -m experiments.tables

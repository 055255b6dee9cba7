#!/usr/bin/env bash
# experiments/scaling.sh data.path=TEXT [data.validation_path=TEXT] [more options]: three widths at three horizons, the reports.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}

# shape MODEL HEADS: a LLaMA of so many heads of 12 coordinates each
shape() {
  echo "$1.hidden_size=$((12 * $2)) $1.num_attention_heads=$2 $1.num_key_value_heads=$2 $1.intermediate_size=$((32 * $2))"
}

for heads in 1 2 3; do
  "$python" -m ligo.sweep +study=scaling-small study.name=scaling-small-$heads $(shape small.shape $heads) "$@"
  small=$("$python" -m ligo.sweep best scaling-small-$heads small)/small
  "$python" -m ligo.sweep +study=scaling study.name=scaling-$heads small.path="$small" $(shape target $((2 * heads))) "$@"
  "$python" -m ligo.report runs/scaling-$heads
  mkdir -p experiments/scaling/$heads-heads
  cp runs/scaling-$heads/{results.json,table.md,report.html} experiments/scaling/$heads-heads/
done
"$python" -m experiments.tables

#!/usr/bin/env bash
# experiments/hindsight.sh data.path=TEXT [data.validation_path=TEXT] [more options]: maps fitted in hindsight to first runs of a
# quarter of the tokens and of all, as further arms of the study llama-2x, which must have been run: experiments/run.sh llama-2x.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
small=small.path="$("$python" -m ligo.sweep best llama-2x-small 'small (decayed)')/small"
study=("$python" -m ligo.sweep +study=llama-2x "$small" "$@")
"${study[@]}" 'study.arms.stack-quarter=[operator=stack,train.max_tokens=786432]'
arms=()
for first in stack-quarter stack; do
  fitted=$("$python" -m ligo.sweep best llama-2x "$first")
  arms+=("study.arms.hindsight-$first=[operator=ligo,operator.init=stack,operator.steps=400,learn.fit_to=$fitted]")
done
"${study[@]}" "${arms[@]}"
"$python" -m ligo.report runs/llama-2x
cp runs/llama-2x/{results.json,table.md,report.html} experiments/llama-2x/
"$python" -m experiments.tables

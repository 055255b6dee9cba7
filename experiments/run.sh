#!/usr/bin/env bash
# experiments/run.sh STUDY data.path=DATA [data.validation_path=DATA] [more options]: the small model that the study grows, the
# study (llama, llama-1.5x, llama-2x, gpt2, bert, roberta, vit, no-pretrained, combine, budget, noise, moments), its report. The same command goes on
# after any cut.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
study=$1
shift
model="small (decayed)"
case $study in
no-pretrained) trained="" ;; # it trains its small models itself
bert-long) trained=bert-small ;;
budget | noise | llama-1.5x) trained=llama-2x-small ;;
combine | moments) trained=llama-2x-small model="small (undecayed)" ;;
*) trained=$study-small ;;
esac
small=()
if [ -n "$trained" ]; then
  "$python" -m ligo.sweep +study="$trained" "$@"
  small=(small.path="$("$python" -m ligo.sweep best "$trained" "$model")/small")
fi
"$python" -m ligo.sweep +study="$study" "${small[@]}" "$@"
"$python" -m ligo.report runs/"$study"
mkdir -p experiments/"$study"
cp runs/"$study"/{results.json,table.md,report.html} experiments/"$study"/
"$python" -m experiments.tables

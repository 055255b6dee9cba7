#!/usr/bin/env bash
# experiments/llama/run.sh data.path=TEXT [data.validation_path=TEXT] [more options]: the small model, every way to grow it, the report.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
"$python" -m ligo.sweep +study=llama-small "$@"
small=$("$python" -m ligo.sweep best llama-small 'small (decayed)')/small
"$python" -m ligo.sweep +study=llama small.path="$small" "$@"
"$python" -m ligo.report runs/llama
cp runs/llama/results.json runs/llama/table.md runs/llama/report.html experiments/llama/

#!/usr/bin/env bash
# experiments/llama-2x/run.sh data.path=TEXT [data.validation_path=TEXT] [more options]: the small model, every way to grow it, the report.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
"$python" -m ligo.sweep +study=llama-small "$@"
small=$("$python" -m ligo.sweep best llama-small 'small (decayed)')/small
"$python" -m ligo.sweep +study=llama-2x small.path="$small" "$@"
"$python" -m ligo.report runs/llama-2x
cp runs/llama-2x/results.json runs/llama-2x/table.md runs/llama-2x/report.html experiments/llama-2x/

#!/usr/bin/env bash
# experiments/gpt2/run.sh data.path=TEXT [data.validation_path=TEXT] [more options]: the small model, every way to grow it, the report.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
"$python" -m ligo.sweep +study=gpt2-small "$@"
small=$("$python" -m ligo.sweep best gpt2-small 'small (decayed)')/small
"$python" -m ligo.sweep +study=gpt2 small.path="$small" "$@"
"$python" -m ligo.report runs/gpt2
cp runs/gpt2/results.json runs/gpt2/table.md runs/gpt2/report.html experiments/gpt2/

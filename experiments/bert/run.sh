#!/usr/bin/env bash
# experiments/bert/run.sh data.path=TEXT [data.validation_path=TEXT] [more options]: the small model, every way to grow it, the report.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
"$python" -m ligo.sweep +study=bert-small "$@"
small=$("$python" -m ligo.sweep best bert-small 'small (decayed)')/small
"$python" -m ligo.sweep +study=bert small.path="$small" "$@"
"$python" -m ligo.report runs/bert
cp runs/bert/results.json runs/bert/table.md runs/bert/report.html experiments/bert/

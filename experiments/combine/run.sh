#!/usr/bin/env bash
# experiments/combine/run.sh data.path=TEXT [data.validation_path=TEXT] [more options]: the small model, what may be combined with growth, the report.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
"$python" -m ligo.sweep +study=llama-small "$@"
small=$("$python" -m ligo.sweep best llama-small 'small (undecayed)')/small
"$python" -m ligo.sweep +study=combine small.path="$small" "$@"
"$python" -m ligo.report runs/combine
cp runs/combine/results.json runs/combine/table.md runs/combine/report.html experiments/combine/

#!/usr/bin/env bash
# experiments/vit/run.sh data.path=IMAGES [more options]: the small model, every way to grow it, the report.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
"$python" -m ligo.sweep +study=vit-small "$@"
small=$("$python" -m ligo.sweep best vit-small 'small (decayed)')/small
"$python" -m ligo.sweep +study=vit small.path="$small" "$@"
"$python" -m ligo.report runs/vit
cp runs/vit/results.json runs/vit/table.md runs/vit/report.html experiments/vit/

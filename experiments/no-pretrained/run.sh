#!/usr/bin/env bash
# experiments/no-pretrained/run.sh data.path=TEXT [data.validation_path=TEXT] [more options]: small models trained to be grown, the report.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
"$python" -m ligo.sweep +study=no-pretrained "$@"
"$python" -m ligo.report runs/no-pretrained
cp runs/no-pretrained/results.json runs/no-pretrained/table.md runs/no-pretrained/report.html experiments/no-pretrained/

#!/usr/bin/env bash
# experiments/sst2.sh STUDY "ARM ARM" evaluation.path=FOLDER [more options]: the small model of a study, its scratch run and grown
# arms, each the best of its kind, tuned on SST-2 at three rates; experiments/run.sh STUDY must have been run.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
study=$1 arms=$2
shift 2
best() { "$python" -m ligo.sweep best "$@"; }
scratch=$(best "$study" scratch)/checkpoints/scratch
models=(models.small.path="$(best "$study-small" 'small (decayed)')/small"
  models.scratch.path="$scratch/$(cat "$scratch/latest")/model")
for arm in $arms; do
  models+=("models.$arm.path=$(best "$study" "$arm")")
done
"$python" -m ligo.evaluate evaluation=classification evaluation.task=sst2 'evaluation.rates=[3e-4,1e-3,3e-3]' evaluation.test=true \
  "${models[@]}" run.dir="runs/sst2-$study" "$@"
mkdir -p "experiments/$study/sst2"
cp "runs/sst2-$study"/{evaluation.json,table.md} "experiments/$study/sst2/"

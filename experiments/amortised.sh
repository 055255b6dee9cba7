#!/usr/bin/env bash
# experiments/amortised.sh data.path=TEXT data.validation_path=TEXT -- NAME TEXT VALIDATION [NAME TEXT VALIDATION ...]
# One operator for several checkpoints. The base is the small model of the study llama-2x on its text (experiments/run.sh llama-2x),
# the first runs its growth by a stack, on a short schedule, and by AKI. Each NAME is that base trained on on another text, and grown
# there.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
base_text=()
while [ "$1" != -- ]; do
  base_text+=("$1")
  shift
done
shift
base="$("$python" -m ligo.sweep best llama-2x-small 'small (decayed)')/small"
common=(+small=checkpoint +target=custom target.hidden_size=48 target.num_attention_heads=4 target.num_key_value_heads=4
  target.intermediate_size=128 target.num_hidden_layers=4 data=custom tracking=jsonl train.engine=torch train.batch_tokens=1024
  train.schedule=wsd)
first=runs/amortised-first
for run in "stack 524288" "bert2bert 1572864"; do
  read -r start tokens <<<"$run"
  "$python" -m ligo.grow "${common[@]}" "${base_text[@]}" small.path="$base" operator="$start" train.lr=4.0e-3 \
    train.max_tokens="$tokens" 'stages=[write,train]' run.dir="$first-$start"
  "$python" -m ligo.grow "${common[@]}" "${base_text[@]}" small.path="$base" operator=ligo operator.init="$start" \
    operator.per_layer=true operator.steps=400 learn.fit_to="$first-$start" 'stages=[learn]' run.dir="$first-$start"-operator
done
sizes=()
while [ $# -gt 0 ]; do
  name=$1 text="data.path=$2,data.validation_path=$3" small=runs/amortised-small/$1
  if [ ! -d "$small" ]; then # 0.7 million tokens of the small model: the FLOPs of 164 thousand of the target
    "$python" -m ligo.grow "${common[@]}" data.path="$2" data.validation_path="$3" small.path="$base" operator=stack \
      train.lr=2.0e-3 train.max_tokens=163840 train.export=last 'stages=[continue]' run.dir="$small-run"
    cp -r "$small"-run/checkpoints/continue/step-*/model "$small"
    cp "$base"/tokenizer*.json "$small"/
  fi
  sizes+=("study.sizes.$name=[$text,small.path=$small]")
  shift 3
done
"$python" -m ligo.sweep +study=amortised "${sizes[@]}"
"$python" -m ligo.report runs/amortised
mkdir -p experiments/amortised
cp runs/amortised/{results.json,table.md,report.html} experiments/amortised/
"$python" -m experiments.tables

#!/usr/bin/env bash
# experiments/shuffled.sh data.path=TEXT [data.validation_path=TEXT] [more options]: AKI as in the study llama-2x, whose small model
# must have been trained (experiments/run.sh llama-2x), on that model with the numbers of each matrix in another order. Its final
# loss beside AKI's tells what AKI owes to the size of the weights alone.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
shuffled=runs/llama-2x-small/shuffled
[ -d $shuffled ] ||
  "$python" -m experiments.shuffled "$("$python" -m ligo.sweep best llama-2x-small 'small (decayed)')/small" $shuffled
"$python" -m ligo.sweep study.name=llama-2x-shuffled train.lr=2.0e-3,4.0e-3,8.0e-3 +small=checkpoint small.path=$shuffled \
  +target=custom target.hidden_size=48 target.num_attention_heads=4 target.num_key_value_heads=4 target.intermediate_size=128 \
  target.num_hidden_layers=4 operator=bert2bert data=custom tracking=jsonl train.engine=torch train.batch_tokens=1024 \
  train.evaluate_every=64 train.schedule=wsd train.max_tokens=3145728 'stages=[write,train]' "$@"

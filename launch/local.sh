#!/usr/bin/env bash
# launch/local.sh N +small=... +target=...: N processes on this machine.
set -euo pipefail
processes=$1
shift
exec "${PYTHON:-python}" -m ligo.launch torchrun --standalone --nproc_per_node "$processes" -- "$@"

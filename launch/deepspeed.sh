#!/usr/bin/env bash
# launch/deepspeed.sh +small=... +target=...: the hosts of launch/hostfile, one process on each of their slots.
# Every host needs this checkout at the same path, and ssh without a password from the first.
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-python}" -m ligo.launch deepspeed --hostfile "${HOSTFILE:-launch/hostfile}" -- "$@"

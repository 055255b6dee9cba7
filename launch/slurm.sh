#!/usr/bin/env bash
# sbatch launch/slurm.sh +small=... +target=...; set nodes, GPUs and time for your cluster.
#SBATCH --job-name=ligo
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
set -euo pipefail
# USR1 two minutes before the end: ligo saves a checkpoint and exits with 75; the same command goes on
exec "${PYTHON:-python}" -m ligo.launch srun --kill-on-bad-exit=1 -- "$@"

#!/usr/bin/env bash
# SLURM, one task a GPU; in a clone on a file system that all nodes share:
#   sbatch --nodes=4 launch/slurm.sh --config=configs/mocov3_vit.py --workdir=/shared/runs/vit
# Pre-empted or out of time the run saves, goes back to the queue and continues.
# Partition, account and time are sbatch's own flags, before the script's name;
# nodes with four GPUs: --gpus-per-node=4 --ntasks-per-node=4.
#   PYTHON=...    the interpreter (an activated environment is passed on anyway)
#   DRY_RUN=1     with bash instead of sbatch: print the command and do nothing
#
# Not --gpus-per-task and no GPU binding: JAX lets task i of a node use the i-th
# of all its GPUs.
#SBATCH --job-name=cassle
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
# To the tasks, 300 s before the end. With B: it would reach this script alone.
#SBATCH --signal=TERM@300
set -euo pipefail

fail() {
  echo "error: $*" >&2
  exit 2
}

[[ " $* " == *" --workdir"[=\ ]* ]] ||
  fail "give --workdir=DIR on a shared file system, to continue from"
# SLURM runs a copy of this file that lies elsewhere.
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"
[[ -d cassle_jax ]] || fail "run sbatch in the clone of cassle_jax, not in $PWD"

# A task that fails must not have its peers ended by srun: they would leave with
# the 143 of a pre-emption, and srun reports the highest status. They are told by
# the failed one within a second, or notice by the heartbeat.
run=(
  srun --kill-on-bad-exit=0 --cpus-per-task="${SLURM_CPUS_PER_TASK:-8}"
  "${PYTHON:-python}" -m cassle_jax.main --distributed=auto --heartbeat=30 "$@"
)
if [[ -n ${DRY_RUN:-} ]]; then
  printf '%q ' "${run[@]}"
  echo
  exit 0
fi

# A pre-emption signals this script too; it must live until the tasks have saved.
# (Ignoring it would be inherited by the tasks.)
trap : TERM
status=0
"${run[@]}" || status=$?
# 75: nothing moved, and the watchdog ended it. That may happen again and again.
if ((status == 143 || (status == 75 && ${SLURM_RESTART_COUNT:-0} < 10))); then
  echo "status $status: back to the queue"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"

# shellcheck shell=bash
# Sourced by the scripts beside this file: runs one task of stage $STAGE with the worker that the launchers use.
# Submit from the project's root:  RECIPE=tiny CLUSTER=devcluster RUN=trial sbatch slurm/shard.sbatch
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?submit this script with sbatch from the root of the project}"
umask 077
srun --kill-on-bad-exit=1 --cpu-bind=none .venv/bin/diagcot worker --stage "$STAGE" \
    --recipe "${RECIPE:-tiny}" --cluster "${CLUSTER:-devcluster}" --run "${RUN:-${RECIPE:-tiny}}"

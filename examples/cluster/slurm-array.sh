#!/bin/bash
# A job array: eight runs, each on a node of its own, make one dataset side by side.
#
#   sbatch slurm-array.sh spec.toml
#   sbatch --array=3 slurm-array.sh spec.toml         # part 3 again, if it failed
#
# The output of the spec is an object store, or a folder that all nodes share. A task that comes to its time limit, or
# whose node is taken away, is queued again and goes on where it stopped; the last one to end completes the dataset.
#SBATCH --job-name=turbo-fetch
#SBATCH --array=0-7
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=8G
#SBATCH --time=04:00:00
#SBATCH --signal=USR1@60
#SBATCH --requeue
#SBATCH --open-mode=append

# As many as in --array, which begins at 0. SLURM_ARRAY_TASK_COUNT would be 1 where one part is submitted again.
parts="${PARTS:-8}"
srun turbo-fetch run "$1" --quiet --shards "$SLURM_ARRAY_TASK_ID/$parts"
status=$?

# 130: stopped by a signal, with all saved. 75: an earlier run of this task still has its part, or took it over.
if [ "$status" = 130 ] || [ "$status" = 75 ]; then
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
fi
exit "$status"

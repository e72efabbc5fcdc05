#!/bin/bash
# One Ray cluster on four nodes, for as long as the job: `ray symmetric-run` starts Ray on each of them, and the command
# on the first one alone.
#
#   sbatch slurm-ray.sh spec.toml
#
# Limits per domain hold for all nodes together. The output is an object store, or a folder that all nodes share.
#SBATCH --job-name=turbo-fetch
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --exclusive
#SBATCH --time=12:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN="${RAY_AUTH_TOKEN:-$(openssl rand -hex 16)}"

srun --ntasks="$SLURM_JOB_NUM_NODES" \
    ray symmetric-run --address "$head:6379" --min-nodes "$SLURM_JOB_NUM_NODES" --num-cpus "$SLURM_CPUS_PER_TASK" -- \
    turbo-fetch run "$1" --quiet --set engine.kind=ray --set engine.address=auto
status=$?

if [ "$status" = 130 ] || [ "$status" = 75 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"

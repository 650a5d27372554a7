#!/bin/bash
# The same under SLURM: one task a GPU, and a task that dies ends the others.
#     sbatch --nodes 4 --ntasks-per-node 8 --gpus-per-node 8 examples/with_slurm.sh /shared/samples
export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1) MASTER_PORT=$((20000 + SLURM_JOB_ID % 40000))
srun --kill-on-bad-exit=1 bash -c 'export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID
  exec python examples/with_torchrun.py "$1"' -- "$1"

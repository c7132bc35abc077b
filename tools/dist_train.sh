#!/usr/bin/env bash
# Train on the GPUs (or, without any, CPU processes) of one or more machines.
#   tools/dist_train.sh CONFIG GPUS [options of tools/train.py]
# MAX_RESTARTS=3 starts all processes again, from the last checkpoint, when one of them dies.
# Several machines: NNODES=2 NODE_RANK=0 MASTER_ADDR=host PORT=29500 on each.
set -euo pipefail
CONFIG=${1:?CONFIG is missing} GPUS=${2:?GPUS is missing}

. "$(dirname "$0")/dist_address.sh"
python -m torch.distributed.run "${address[@]}" \
    --nproc_per_node="$GPUS" \
    --max-restarts="${MAX_RESTARTS:-0}" \
    "$(dirname "$0")/train.py" "$CONFIG" --launcher pytorch "${@:3}"

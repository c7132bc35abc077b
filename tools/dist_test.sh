#!/usr/bin/env bash
# Evaluate on the GPUs (or, without any, CPU processes) of one or more machines.
#   tools/dist_test.sh CONFIG CHECKPOINT GPUS [options of tools/test.py]
# Several machines: NNODES=2 NODE_RANK=0 MASTER_ADDR=host PORT=29500 on each.
set -euo pipefail
CONFIG=${1:?CONFIG is missing} CHECKPOINT=${2:?CHECKPOINT is missing} GPUS=${3:?GPUS is missing}

. "$(dirname "$0")/dist_address.sh"
python -m torch.distributed.run "${address[@]}" \
    --nproc_per_node="$GPUS" \
    "$(dirname "$0")/test.py" "$CONFIG" "$CHECKPOINT" --launcher pytorch "${@:4}"

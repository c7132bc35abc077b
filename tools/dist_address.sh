# Sourced by dist_train.sh and dist_test.sh: where the processes meet, as options of torchrun.
if ! command -v python > /dev/null; then
    echo "error: there is no python on the PATH; activate the environment first" >&2
    exit 1
fi
if [ "${NNODES:-1}" = 1 ] && [ -z "${PORT:-}" ]; then
    address=(--standalone)  # on any free port
else
    PORT=${PORT:-29500}
    if [ "${NODE_RANK:-0}" = 0 ] &&
        ! python -c "import socket; socket.create_server(('', $PORT))" 2> /dev/null; then
        echo "error: the port $PORT is taken, or is none; give another, as in PORT=29501" >&2
        exit 1
    fi
    address=(
        --nnodes="${NNODES:-1}"
        --node_rank="${NODE_RANK:-0}"
        --master_addr="${MASTER_ADDR:-127.0.0.1}"
        --master_port="$PORT"
    )
fi

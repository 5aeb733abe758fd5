#!/bin/bash
# Slurm runs this script on the first node of an allocation: it starts Ray on all nodes and a search
# on them, saves the search before the time limit, and puts the job back into the queue, where the
# search continues. ../docs/slurm.md explains it.
#
# Fill in SHARED, check the other settings, add what your cluster asks for (#SBATCH --partition,
# --account), and submit it in the project's folder with the flags of launch.py:
#     sbatch clusters/slurm.sh --dataset cub200 --rows all
#SBATCH --job-name=wpm
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --no-kill
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=wpm-%j.log

SHARED=FILL_IN     # a folder that all nodes see: records go to its runs/, decoded pixels to its data/
ENVIRONMENT=.venv  # the Python environment, seen by all nodes too: bin/python and bin/ray
LOCAL=/tmp         # a disk of each node's own, with a short path, for Ray's sockets and logs
JOIN_WAIT_S=300    # start without the nodes that have not joined by then

BAD_INPUT=2 INTERRUPTED=130  # exit codes of launch.py
signals=0 waiter='' search='' steps=()

say() { echo "slurm.sh: $*"; }

refuse() {
    say "error: $*" >&2
    exit $BAD_INPUT
}

check_settings() {
    [ -n "${SLURM_JOB_ID:-}" ] || refuse "this runs in a Slurm job: sbatch clusters/slurm.sh FLAGS"
    [ "$SHARED" != FILL_IN ] || refuse "SHARED is not filled in: edit clusters/slurm.sh"
    [ -w "$SHARED" ] || refuse "SHARED=$SHARED is not a folder that ${SLURMD_NODENAME:-this node} can write"
    [ -f launch.py ] || refuse "$PWD has no launch.py: submit in the project's folder"
    for program in python ray; do
        [ -x "$ENVIRONMENT/bin/$program" ] || refuse "ENVIRONMENT=$ENVIRONMENT has no bin/$program"
    done
}

# Called by SIGTERM: ahead of the time limit, or before another job takes the nodes.
pass_signal_on() {
    signals=$((signals + 1))
    say "Slurm asks for the end ($(date +%T))"
    kill -TERM "${search:-$waiter}" 2> /dev/null
    [ -z "$search" ] || [ $signals -gt 1 ] || kill_before_the_limit &
}

# A search that does not end in time would take the job with it, and nothing would continue it.
kill_before_the_limit() {
    local end
    end=$(date -d "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%e)" +%s 2> /dev/null) || return
    while [ "$EPOCHSECONDS" -lt $((end - 60)) ]; do
        sleep 0.2
        kill -0 "$search" 2> /dev/null || return
    done
    say "the search has not ended in time: the last checkpoints count"
    kill -KILL "$search"
}

# Wait for a process although signals arrive; returns its exit code.
wait_for() {
    local before code
    while before=$signals; wait "$1"; code=$?; [ $signals -ne "$before" ]; do :; done
    return $code
}

# Return the first of three free ports for Ray on the head. Job ids that differ by less than 4000
# have other ports, and all lie below 32768, where the system begins to hand out ports by itself.
choose_ports() {
    local port try
    for try in {0..99}; do
        port=$((20000 + (SLURM_JOB_ID + try) % 4000 * 3))
        is_used 127.0.0.1 $port || is_used 127.0.0.1 $((port + 1)) \
            || is_used 127.0.0.1 $((port + 2)) || { echo $port && return; }
    done
    return 1
}

is_used() { (exec 3<> "/dev/tcp/$1/$2") 2> /dev/null; }

# Return the address of the first node, as the last one sees it: its own name may mean 127.0.1.1.
find_head() {
    local name=$1 last=$2 known
    known=$(scontrol show node --oneliner "$name" | grep -o 'NodeAddr=[^ ]*')
    srun --overlap --nodes=1 --ntasks=1 --nodelist="$last" --input=none \
        getent ahostsv4 "${known#NodeAddr=}" \
        | awk '{ print $1; exit }'
}

# Run by srun on every node: Ray, until srun ends it. The first argument is `head` or `worker`.
run_node() {
    local ports folder own ray second kept ended=''
    own=$(python - "$HEAD_ADDRESS" << 'END'
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as to_head:
    to_head.connect((sys.argv[1], 1))  # sends nothing: the system chooses the way
    print(to_head.getsockname()[0])
END
    ) || return 1
    # A folder of this job. It may be left from before the job was put into the queue again.
    folder=$LOCAL/wpm-$SLURM_JOB_ID
    rm -rf "$folder"
    mkdir -m 700 "$folder" || return 1
    if [ "$1" = head ]; then
        ports=(--head "--port=$PORT" --dashboard-host=127.0.0.1 "--dashboard-port=$((PORT + 1))")
        # Ray opens this port where grpc is installed, and refuses the flag elsewhere.
        ! python -c 'import grpc' 2> /dev/null || ports+=("--ray-client-server-port=$((PORT + 2))")
    else
        ports=("--address=$HEAD_ADDRESS:$PORT")
    fi
    for ((second = 0; second < JOIN_WAIT_S; second++)); do
        [ "$1" != head ] && ! is_used "$HEAD_ADDRESS" "$PORT" || break
        sleep 1
    done
    ulimit -Sn 65536 2> /dev/null || ulimit -Sn "$(ulimit -Hn)"
    # What the job was given, not what the machine has. The object store holds hardly anything; Ray
    # would take a third of the machine's memory.
    ray start "${ports[@]}" --dashboard-agent-listen-port=0 --node-ip-address="$own" \
        --num-cpus="${SLURM_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE}" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" \
        --object-store-memory=1000000000 --temp-dir="$folder" --labels="slurm-node=$SLURMD_NODENAME" \
        --block &
    ray=$!
    trap 'ended=yes; kill -TERM $ray 2> /dev/null' TERM
    # With --no-kill, Slurm keeps a job that has lost its first node, and nothing on it would end it.
    while [ "$1$ended" = worker ]; do
        sleep 5 > /dev/null 2>&1 & wait $!
        ! timeout 5 bash -c ": < /dev/tcp/$HEAD_ADDRESS/$PORT" 2> /dev/null || continue
        kept=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%N)
        [ -z "$kept" ] || scontrol show hostnames "$kept" | grep -qx "$HEAD" || {
            scontrol requeue "$SLURM_JOB_ID"
            ended=yes
        }
    done
    wait $ray
    wait $ray # again, where the signal ended the first wait
    rm -rf "$folder"
}

start_node() {
    local role=$1 name=$2
    srun --nodes=1 --ntasks=1 --nodelist="$name" --cpus-per-task="$cpus" --export=ALL --no-kill \
        --input=none --output="$job_folder/ray-$name.log" --open-mode=truncate \
        bash -c "$(declare -f is_used run_node); run_node $role" &
    steps+=($!)
}

# Ray ends with the steps. `ray stop` would end every Ray of the user, those of other jobs too.
end_ray() {
    scancel --signal=TERM "$SLURM_JOB_ID" 2> /dev/null # the steps of this job, but not this script
    for _ in {1..100}; do
        kill -0 "${steps[@]}" 2> /dev/null || break
        sleep 0.2
    done
    kill -TERM "${steps[@]}" 2> /dev/null
    rm -f "$RAY_AUTH_TOKEN_PATH"
}

# Slurm starts this job again; a job that is cancelled, or ended by Slurm itself, stays as it is.
put_back() {
    local state
    state=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)
    [ "$state" = RUNNING ] || return
    if scontrol requeue "$SLURM_JOB_ID"; then
        say "interrupted: the job is in the queue again, and its next start continues the search"
        exit $INTERRUPTED
    fi
}

check_settings
PATH=$(realpath "$ENVIRONMENT")/bin:$PATH
cpus=${SLURM_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE}
job_folder=$SHARED/slurm/$SLURM_JOB_ID
export LOCAL JOIN_WAIT_S PATH RAY_USAGE_STATS_ENABLED=0
# Ray would wait for half a minute before it ends, to let a service that it runs find another node.
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$job_folder/token
trap pass_signal_on TERM

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
HEAD_ADDRESS=$(find_head "${nodes[0]}" "${nodes[-1]}")
[ -n "$HEAD_ADDRESS" ] || refuse "${nodes[-1]} does not know the address of ${nodes[0]}"
PORT=$(choose_ports) || refuse "no free ports on ${nodes[0]}"
export HEAD=${nodes[0]} HEAD_ADDRESS PORT
mkdir -p "$job_folder" && (
    umask 077
    rm -f "$RAY_AUTH_TOKEN_PATH"
    python -c 'import secrets; print(secrets.token_hex(32))' > "$RAY_AUTH_TOKEN_PATH"
) || refuse "$job_folder cannot be written"

say "job $SLURM_JOB_ID, start $((${SLURM_RESTART_COUNT:-0} + 1)): ${nodes[*]}, head $HEAD_ADDRESS:$PORT"
start_node head "${nodes[0]}"
for name in "${nodes[@]:1}"; do start_node worker "$name"; done
python clusters/slurm_nodes.py "$HEAD_ADDRESS:$PORT" "${nodes[@]}" --wait "$JOIN_WAIT_S" \
    --head "${steps[0]}" &
waiter=$!
wait_for $waiter
code=$?
if [ $signals -gt 0 ]; then
    # Where the time limit is too short, putting the job back would go on for ever.
    say "stopped before the search began: raise --time, or lower the seconds in --signal"
    code=$INTERRUPTED
elif [ $code -ne 0 ]; then
    say "Ray does not start on ${nodes[0]}: $job_folder/ray-${nodes[0]}.log says why"
else
    python launch.py --run-root "$SHARED/runs" --work-root "$SHARED/data" "$@" \
        --address "$HEAD_ADDRESS:$PORT" &
    search=$!
    wait_for $search
    code=$?
fi
end_ray

# Only an interrupted search is worth another start: one that failed would fail again. A search that
# Slurm's signal ended otherwise, such as by a fault while it saved, continues from its checkpoints.
if [ $code -ge 128 ]; then
    [ -z "$search" ] || [ $signals -eq 0 ] || put_back
    say "interrupted: the same sbatch command continues the search"
elif [ $code -eq 0 ]; then
    say "finished"
elif [ $code -eq $BAD_INPUT ]; then
    say "ended: the search needs you (exit code 2), the line above says why"
else
    say "ended: exit code $code, the lines above say why"
fi
exit $code

#!/usr/bin/env bash
# One job of N processes on this machine, as a cluster would run it:
#   bash launch/local.sh N --config=configs/quickstart.py --workdir=runs/a
# One GPU each where there are GPUs; DEVICES=M gives each M CPU devices instead.
# Ctrl-C and SIGTERM reach every process, which saves and exits with status 143;
# the same line continues. When one fails, the others are ended within seconds.
#   LOGS=DIR      DIR/process-I.log instead of lines with a prefix
#   GRACE=300     seconds that a save may take after SIGTERM
#   PORT=P        of the coordinator; default a free one
#   DRY_RUN=1     print the commands and do nothing
#   PYTHON=...    the interpreter
# Exit status: 0 done, 143 pre-empted, otherwise that of the first that failed.
set -euo pipefail

fail() {
  echo "error: $*" >&2
  exit 2
}

count="${1:-}"
[[ $count =~ ^[1-9][0-9]*$ ]] ||
  fail "bash launch/local.sh N --config=...: N is the number of processes"
shift
[[ " $* " == *" --workdir"[=\ ]* ]] ||
  fail "give --workdir=DIR: one folder for all processes, and to continue from"
cd "$(dirname "$0")/.."

devices="${DEVICES:-}"
if [[ -z $devices ]]; then
  gpus="$(nvidia-smi -L 2> /dev/null | grep -c '^GPU' || true)"
  if ((gpus == 0)); then
    devices=1
  elif ((gpus < count)); then
    fail "N=$count processes and $gpus GPUs; use N=$gpus, or DEVICES=1 for CPUs"
  fi
elif [[ ! $devices =~ ^[1-9][0-9]*$ ]]; then
  fail "DEVICES=$devices must be a number of CPU devices of each process"
fi

# Below the range that the system takes ports for outgoing connections from.
free_port() {
  local port tries
  for tries in {1..50}; do
    port=$((20000 + RANDOM % 10000))
    (exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null || {
      echo "$port"
      return
    }
  done
  fail "no free port in $tries tries; set PORT"
}
port="${PORT:-$(free_port)}"

# Sets `environment` and `command` of process $1.
compose() {
  if [[ -n $devices ]]; then
    local flag="--xla_force_host_platform_device_count=$devices"
    environment=(JAX_PLATFORMS=cpu "XLA_FLAGS=${XLA_FLAGS:-} $flag")
  else
    environment=("CUDA_VISIBLE_DEVICES=$1")
  fi
  command=(
    "${PYTHON:-python}" -m cassle_jax.main "${flags[@]}" --distributed=on
    --coordinator="127.0.0.1:$port" --num_processes="$count" --process_id="$1"
  )
}
flags=("$@")

if [[ -n ${DRY_RUN:-} ]]; then
  for ((i = 0; i < count; i++)); do
    compose "$i"
    printf '%q ' "${environment[@]}" "${command[@]}"
    echo
  done
  exit 0
fi

# Puts [$1] before each line; ends with its input and not by a signal.
prefix() {
  trap '' INT TERM HUP
  local line
  while IFS= read -r line || [[ -n $line ]]; do
    printf '[%s] %s\n' "$1" "$line"
  done
}

pids=() readers=()
grace="${GRACE:-300}"
deadline='' signalled='' killed='' result=0

# Sends a signal to every process that is left.
send() {
  local pid
  for pid in "${pids[@]}"; do
    kill -"$1" "$pid" 2> /dev/null || true
  done
}
# Kills what is left, with all that it started.
kill_groups() {
  local pid
  for pid in "${pids[@]}"; do
    kill -KILL -- "-$pid" 2> /dev/null || true
  done
}
# Leaves $1 more seconds at most.
leave() {
  if [[ -z $deadline ]] || ((SECONDS + $1 < deadline)); then
    deadline=$((SECONDS + $1))
  fi
}
# The first time asks for a save, the second time ends it all.
# shellcheck disable=SC2329  # A trap calls it.
on_signal() {
  if [[ -n $signalled ]]; then
    leave 0
    return
  fi
  signalled=yes
  echo "signal: asking $count processes to save, for $grace s at most" >&2
  send TERM
  leave "$grace"
}
trap on_signal TERM INT HUP
trap kill_groups EXIT

# Takes down that process $1 ended with status $2.
ended() {
  local status="$2"
  if [[ -n $killed && $status == 137 ]] && ((result == 0 || result == 143)); then
    echo "process $1 did not save in time and was killed" >&2
    status=143
  fi
  if ((status == 143)); then
    ((result)) || result=143
    leave "$grace" # The others save the same step.
  elif ((status && (result == 0 || result == 143))) && [[ -z $killed ]]; then
    echo "process $1 ended with status $status; ending the others" >&2
    result=$status
    # A process that gets SIGTERM agrees with its peers on the step to save, and
    # waits a minute for the one that is gone: hence the short time.
    send TERM
    leave 5
  fi
}

[[ -z ${LOGS:-} ]] || mkdir -p "$LOGS"
for ((i = 0; i < count; i++)); do
  if [[ -n $signalled ]]; then
    result=143
    break
  fi
  compose "$i"
  if [[ -n ${LOGS:-} ]]; then
    exec 3>> "$LOGS/process-$i.log" 4>&3
  else
    exec 3> >(prefix "$i")
    readers+=("$!")
    exec 4> >(prefix "$i" >&2)
    readers+=("$!")
  fi
  # Each leads a group of its own: Ctrl-C reaches it through this script alone,
  # and what it started (data workers) can be ended with it.
  set -m
  env "${environment[@]}" "${command[@]}" >&3 2>&4 3>&- 4>&- &
  pids+=("$!")
  set +m
  exec 3>&- 4>&-
done
# One may have been started as the signal came.
[[ -z $signalled ]] || send TERM

running=("${!pids[@]}")
while ((${#running[@]})); do
  left=()
  for i in "${running[@]}"; do
    if kill -0 "${pids[i]}" 2> /dev/null; then
      left+=("$i")
    else
      status=0
      wait "${pids[i]}" 2> /dev/null || status=$?
      ended "$i" "$status"
    fi
  done
  running=(${left[@]+"${left[@]}"})
  if [[ -n $deadline ]] && ((SECONDS >= deadline)); then
    killed=yes
    kill_groups
  fi
  if ((${#running[@]})); then
    sleep 0.1 &
    wait "$!" || true
  fi
done
kill_groups # Workers that outlived their process hold the pipes open.
for reader in ${readers[@]+"${readers[@]}"}; do
  wait "$reader" 2> /dev/null || true
done
exit "$result"

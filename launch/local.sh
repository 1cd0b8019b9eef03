#!/usr/bin/env bash
# One run as N processes on this machine, each with its share of the GPUs, if it has any.
#
#     launch/local.sh N COMMAND...
#     launch/local.sh 2 identitydp train --config configs/smoke_cpu.py --workdir runs/smoke
#
# Needs bash 4.3 and the package. SIGTERM and SIGINT reach every process as SIGTERM, on which it
# saves and ends. When one fails the others get SIGTERM and, 30 s later, SIGKILL. The exit status is
# that of the first to fail.
set -euo pipefail

if ! [[ ${1-} =~ ^[1-9][0-9]*$ && $# -ge 2 ]]; then
  echo "usage: $0 N COMMAND..." >&2
  exit 2
fi
count=$1
shift

gpus=()
if [[ -n ${CUDA_VISIBLE_DEVICES-} ]]; then
  IFS=, read -ra gpus <<<"$CUDA_VISIBLE_DEVICES"
elif command -v nvidia-smi >/dev/null; then
  mapfile -t gpus < <(nvidia-smi --query-gpu=index --format=csv,noheader)
fi
share=$((${#gpus[@]} / count))
if ((share * count != ${#gpus[@]})); then
  echo "$0: ${#gpus[@]} GPUs do not split evenly over $count processes: give another N" >&2
  exit 2
fi

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
export IDENTITYDP_COORDINATOR=localhost:$port IDENTITYDP_PROCESSES=$count
declare -A running=() # process id -> which process of the run
asked=
trap 'asked=yes; kill "${!running[@]}" 2>/dev/null || true' TERM INT

for ((i = 0; i < count; i++)); do
  if ((share)); then
    mine=$(IFS=, && echo "${gpus[*]:i*share:share}")
    export CUDA_VISIBLE_DEVICES=$mine
  fi
  IDENTITYDP_PROCESS=$i "$@" </dev/null &
  running[$!]=$i
done

status=0
deadline=
while ((${#running[@]})); do
  for pid in "${!running[@]}"; do
    kill -0 "$pid" 2>/dev/null && continue
    code=0
    wait "$pid" || code=$?
    if ((code)); then
      echo "$0: process ${running[$pid]} of $count ended with status $code" >&2
    fi
    unset "running[$pid]"
    if ((code && !status)); then
      status=$code
      deadline=$((SECONDS + 30))
      # Whom the signal reached is saving: a second one would cut that short.
      [[ -n $asked ]] || kill "${!running[@]}" 2>/dev/null || true
    fi
  done
  if [[ -n $deadline ]] && ((SECONDS > deadline)); then
    kill -KILL "${!running[@]}" 2>/dev/null || true
  fi
  sleep 0.2 || true # the interrupt key ends it
done
exit "$status"

#!/usr/bin/env bash
# A Slurm cluster of one node, this machine, for as long as this script runs; SIGTERM ends it.
#
#     apt-get install --no-install-recommends slurmctld slurmd slurm-client munge
#     tests/launch/slurm_cluster.sh FOLDER &
#     SLURM_CONF=FOLDER/slurm.conf sinfo
#
# Needs root. FOLDER, an absolute path, holds its configuration, state and logs; FOLDER/ready
# appears when jobs can be given to it.
set -euo pipefail

folder=$1
node=$(hostname -s)
mkdir -p "$folder"/{state,spool}
head -c 128 /dev/urandom >"$folder/munge.key"
chmod 600 "$folder/munge.key"

cat >"$folder/slurm.conf" <<CONF
ClusterName=one
SlurmctldHost=$node
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
KillWait=10
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
NodeName=$node CPUs=$(nproc) State=UNKNOWN
PartitionName=all Nodes=$node Default=YES OverSubscribe=FORCE:2 State=UP
CONF
export SLURM_CONF=$folder/slurm.conf

pids=()
trap 'kill "${pids[@]}"; wait; exit 143' TERM
munged --foreground --force --socket="$folder/munge.socket" --key-file="$folder/munge.key" \
  --pid-file="$folder/munged.pid" --seed-file="$folder/munged.seed" \
  --log-file="$folder/munged.log" &
pids+=($!)
until [[ -S $folder/munge.socket ]]; do sleep 0.1; done
slurmctld -D -c -L "$folder/slurmctld.log" &
pids+=($!)
slurmd -D -L "$folder/slurmd.log" -N "$node" &
pids+=($!)
until sinfo --noheader --format=%T | grep --quiet idle; do sleep 0.5; done
touch "$folder/ready"
wait

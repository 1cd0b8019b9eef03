#!/usr/bin/env bash
# One run on a Cloud TPU VM slice: one process on each of its hosts.
#
#     gcloud compute tpus tpu-vm create slice --zone=us-west4-a \
#         --accelerator-type=v5litepod-16 --version=v2-alpha-tpuv5-lite
#     launch/tpu_vm.sh slice us-west4-a REGISTRY/identitydp:tpu \
#         identitydp train --config configs/paper_celebahq256.py --workdir /runs/paper
#
# Needs gcloud, the image of launch/Dockerfile (ACCELERATOR=tpu) where the hosts may pull it, and
# /mnt/runs mounted on every host from storage that they share. The output of all hosts comes back
# here. To save and stop, on all hosts: sudo docker stop --time 120 identitydp
set -euo pipefail

if (($# < 4)); then
  echo "usage: $0 SLICE ZONE IMAGE COMMAND..." >&2
  exit 2
fi
slice=$1 zone=$2
shift 2
# Privileged and on the host's network: the devices, and the metadata that says who is who.
printf -v command '%q ' sudo docker run --rm --init --name=identitydp --privileged --network=host \
  --stop-timeout=120 --volume=/mnt/runs:/runs --env=IDENTITYDP_DISTRIBUTED=1 "$@"
exec gcloud compute tpus tpu-vm ssh "$slice" --zone="$zone" --worker=all --command="$command"

#!/usr/bin/env bash
# A TPU slice as VMs: one command for all its workers.
#
#   launch/tpu_vm.sh ACTION --name=NAME --zone=ZONE [--project=P] [options] [-- --config=... --workdir=gs://... ...]
#
#   create    --type=v5litepod-64 [--version=v2-alpha-tpuv5-lite] [--spot] [--service-account=EMAIL]
#   setup     sends the committed code, installs it, mounts the buckets     (needs the trainer's arguments)
#   run       starts the trainer on every worker, in the background         (needs the trainer's arguments)
#             both: [--wandb-secret=NAME]   the secret in Secret Manager that holds the W&B key, for log.wandb
#   status    what every worker does: running | ended CODE | idle | missing (not set up)
#   logs      [--lines=20] [--worker=all] the end of the logs; all of them are in WORKDIR/logs
#   stop      the run saves and ends; `run` continues it
#   delete    the slice, for good; the bucket stays
#   state     of the slice, in one word: absent | pending | ready | gone | unknown
#
# --dry-run prints the commands. For spot slices: launch/queued.sh, and launch/babysit.sh on top.
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=launch/common.sh
source "$here/common.sh"

action=${1:-}
shift || true
common="name zone project="
case $action in
  create) parse "$common type version=v2-alpha-tpuv5-lite service-account= spot?" "$@" ;;
  setup) parse "$common wandb-secret= keep-code?" "$@" ;;
  logs) parse "$common lines=20 worker=all" "$@" ;;
  run) parse "$common wandb-secret=" "$@" ;;
  status | stop | delete | state) parse "$common" "$@" ;;
  -h | --help) usage && exit 0 ;;
  *) fail "unknown action '$action'. Known: create setup run status logs stop delete state. See $(basename "$0") --help" ;;
esac
[[ $action != setup && $action != run ]] || check_trainer cloud
place
worker=$HOME_OF_CODE/launch/worker.sh

on_workers() {
  run gcloud compute tpus tpu-vm ssh "${option[name]}" --worker="${option[worker]:-all}" "${place[@]}" --quiet \
    --command="$1"
}

case $action in
  create)
    flags=(--accelerator-type="${option[type]}" --version="${option[version]}" "${place[@]}")
    [[ ${option[spot]} == false ]] || flags+=(--spot)
    [[ -z ${option[service-account]} ]] || flags+=(--service-account="${option[service-account]}")
    run gcloud compute tpus tpu-vm create "${option[name]}" "${flags[@]}"
    ;;
  setup)
    send_code
    on_workers "set -e; sudo mkdir -p $HOME_OF_CODE; gcloud storage cat $(quoted "$(code_url)") | sudo tar -xz -C \
$HOME_OF_CODE; sudo $worker setup $(tpu_extras) $(buckets)"
    ;;
  run) on_workers "sudo $(wandb_variable)$worker start $(mounted)" ;;
  status) on_workers "sudo $worker status || echo missing" ;;
  logs) on_workers "sudo $worker logs $(quoted "${option[lines]}")" ;;
  stop) on_workers "sudo $worker stop" ;;
  delete) run gcloud compute tpus tpu-vm delete "${option[name]}" "${place[@]}" --quiet ;;
  state)
    ask=(gcloud compute tpus tpu-vm describe "${option[name]}" "${place[@]}" "--format=value(state)")
    [[ ${option[dry-run]} == false ]] || { run "${ask[@]}" && exit; }
    case $(look_up "${ask[@]}") in
      READY) echo ready ;;
      PREEMPTED | TERMINATED | STOPPED | HIDDEN) echo gone ;;
      absent) echo absent ;;
      unknown) echo unknown ;;
      *) echo pending ;; # CREATING, REPAIRING, RESTARTING, DELETING, ...
    esac
    ;;
esac

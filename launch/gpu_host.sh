#!/usr/bin/env bash
# One machine with one or several GPUs (or without any): one process drives all of them.
#
#   launch/gpu_host.sh ACTION [--workdir=FOLDER] [--gpus=0,1,2,3] [-- --config=... --workdir=FOLDER ...]
#
#   run       in the foreground, with the trainer's exit code; Ctrl-C saves and ends with 75
#   start     in the background: it outlives the terminal
#   status    running | ended CODE | idle
#   stop      saves and ends; `start` continues it
#   logs      [--lines=20] the end of the log
#
# run and start take the trainer's arguments after --; status, stop and logs only need --workdir. Relative paths are
# those of the repository. Python is .venv/bin/python of the repository; XSAMPLE_PYTHON names another.
# --dry-run prints the command.
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=launch/common.sh
source "$here/common.sh"

action=${1:-}
shift || true
case $action in
  run | start) parse "gpus=" "$@" && check_trainer && workdir=$(given workdir) ;;
  status | stop) parse "workdir" "$@" && workdir=${option[workdir]} ;;
  logs) parse "workdir lines=20" "$@" && workdir=${option[workdir]} ;;
  -h | --help) usage && exit 0 ;;
  *) fail "unknown action '$action'. Known: run start status stop logs. See gpu_host.sh --help" ;;
esac
[[ $workdir != gs://* ]] || fail "--workdir=$workdir: expected a folder; mount the bucket (gcsfuse) and name the mount"
gpus=${option[gpus]:-}

state=$workdir/launch # beside the run, so that several may share the machine
[[ $workdir == /* || ${option[dry-run]} == true ]] || state=$root/$state
command=(env XSAMPLE_STATE="$state")
[[ -z $gpus ]] || command+=(CUDA_VISIBLE_DEVICES="$gpus")
worker=launch/worker.sh
[[ ${option[dry-run]} == true ]] || worker=$root/$worker
case $action in
  run | start) run "${command[@]}" "$worker" "$action" "${trainer[@]}" ;;
  logs) run "${command[@]}" "$worker" logs "${option[lines]}" ;;
  *) run "${command[@]}" "$worker" "$action" ;;
esac

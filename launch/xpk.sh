#!/usr/bin/env bash
# GKE through XPK: a cluster with a pool of TPU slices, and runs on it.
#
#   launch/xpk.sh ACTION --cluster=CLUSTER --zone=ZONE --project=P [options] [-- --config=... --workdir=gs://... ...]
#
#   cluster   --type=v5litepod-64 [--slices=1] [--on-demand]   makes the cluster; spot unless --on-demand
#   storage   --bucket=BUCKET          mounts the bucket as /gcs/BUCKET in every workload
#   run       --name=NAME --type=v5litepod-64 --image=IMAGE [--slices=1] [--restarts=100]  (needs the trainer's arguments)
#   status    [--name=NAME]            the workloads; with a name: waits for this one, 125 where it failed
#   logs      --name=NAME [--lines=20] the end of the logs of all workers; all of them are in WORKDIR/logs
#   delete    --name=NAME              stops the workload: it saves; `run` with another name continues it
#   delete-cluster                     for good; the bucket stays
#
# The image is made from launch/Dockerfile (its first lines say how). A run that was preempted (75), killed (127 to
# 255) or lacked a process (69) is started again; one that broke (1) or has bad input (2) is not. --dry-run prints the
# commands. The W&B key cannot be passed on as a secret: launch/README.md, Secrets.
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=launch/common.sh
source "$here/common.sh"

action=${1:-}
shift || true
common="cluster zone project"
case $action in
  cluster) parse "$common type slices=1 on-demand?" "$@" ;;
  storage) parse "$common bucket" "$@" ;;
  run) parse "$common name type image slices=1 restarts=100 wandb-secret=" "$@" ;;
  status) parse "$common name=" "$@" ;;
  logs) parse "$common name lines=20" "$@" ;;
  delete) parse "$common name" "$@" ;;
  delete-cluster) parse "$common" "$@" ;;
  -h | --help) usage && exit 0 ;;
  *) fail "unknown action '$action'. Known: cluster storage run status logs delete delete-cluster. See xpk.sh --help" ;;
esac
where=(--cluster="${option[cluster]}" --zone="${option[zone]}" --project="${option[project]}")

case $action in
  cluster)
    kind=--spot
    [[ ${option[on-demand]} == false ]] || kind=--on-demand
    run xpk cluster create "${where[@]}" --tpu-type="${option[type]}" --num-slices="${option[slices]}" "$kind" \
      --enable-workload-identity --enable-gcsfuse-csi-driver
    ;;
  storage)
    run xpk storage attach "${option[bucket]}" "${where[@]}" --type=gcsfuse --bucket="${option[bucket]}" \
      --mount-point="/gcs/${option[bucket]}" --readonly=false --size=1 --auto-mount=true \
      --mount-options=implicit-dirs,metadata-cache:ttl-secs:0,rename-dir-limit=200000
    ;;
  run)
    [[ -z ${option[wandb-secret]} ]] || fail "--wandb-secret=${option[wandb-secret]}: XPK writes variables in plain text \
into the workload and cannot refer to a secret. Use gke.sh run --wandb-secret on the same cluster, or WANDB_MODE=offline \
in the image and wandb sync later"
    check_trainer cloud
    # XPK writes the command into a script inside YAML, line by line.
    [[ ${trainer[*]} != *$'\n'* ]] || fail "an argument after -- has several lines: expected one, as XPK's commands have"
    run xpk workload create --workload="${option[name]}" "${where[@]}" --tpu-type="${option[type]}" \
      --num-slices="${option[slices]}" --docker-image="${option[image]}" --max-restarts="${option[restarts]}" \
      --restart-on-exit-codes="$INCOMPLETE,$REQUEUE" --termination-grace-period-seconds=60 \
      --command="launch/worker.sh run $(mounted)"
    ;;
  status)
    [[ -z ${option[name]} ]] || where+=(--wait-for-job-completion="${option[name]}")
    run xpk workload list "${where[@]}"
    ;;
  logs)
    run kubectl logs --selector="jobset.sigs.k8s.io/jobset-name=${option[name]}" --tail="${option[lines]}" --prefix \
      --max-log-requests=1000
    ;;
  delete) run xpk workload delete --workload="${option[name]}" "${where[@]}" ;;
  delete-cluster) run xpk cluster delete "${where[@]}" ;;
esac

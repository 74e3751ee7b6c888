#!/usr/bin/env bash
# A run on a GKE cluster that is there, without XPK: fills in launch/gke_jobset.yaml and applies it.
#
#   launch/gke.sh ACTION --name=NAME [--context=CONTEXT] [options] [-- --config=... --workdir=gs://... ...]
#
#   run       --image=IMAGE [--accelerator=tpu-v5-lite-podslice] [--topology=8x8] [--chips=4] [--slices=1]
#             [--service-account=default] [--restarts=100] [--on-demand]      (needs the trainer's arguments)
#             [--wandb-secret=NAME]
#             --chips: of one host; there are as many hosts as the topology needs
#             --wandb-secret: the Kubernetes secret whose entry WANDB_API_KEY is the W&B key, for log.wandb
#   status    of the JobSet and its pods
#   logs      [--lines=20] the end of the logs of all workers; all of them are in WORKDIR/logs
#   delete    stops the run: it saves; `run` goes on with it
#
# --dry-run prints the commands and the manifest. The context is kubectl's; `gcloud container clusters get-credentials
# CLUSTER --location=ZONE` makes it.
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=launch/common.sh
source "$here/common.sh"

action=${1:-}
shift || true
common="name context="
case $action in
  run)
    parse "$common image accelerator=tpu-v5-lite-podslice topology=8x8 chips=4 slices=1 service-account=default \
restarts=100 wandb-secret= on-demand?" "$@"
    ;;
  logs) parse "$common lines=20" "$@" ;;
  status | delete) parse "$common" "$@" ;;
  -h | --help) usage && exit 0 ;;
  *) fail "unknown action '$action'. Known: run status logs delete. See gke.sh --help" ;;
esac
kubectl=(kubectl)
[[ -z ${option[context]} ]] || kubectl+=("--context=${option[context]}")
jobset=${option[name]}

# The words as a list of YAML (and JSON).
yaml_list() {
  local word list=
  for word in "$@"; do
    word=${word//\\/\\\\}
    list+="\"${word//\"/\\\"}\", "
  done
  printf '[%s]' "${list%, }"
}

manifest() {
  local text name side hosts=1 words=() spot=true
  local -A value
  [[ $(buckets) != *" "* ]] || fail "run folder and data are in several buckets ($(buckets)): expected one"
  [[ ${option[wandb-secret]} =~ ^([a-z0-9]([a-z0-9.-]*[a-z0-9])?)?$ ]] || fail "--wandb-secret=${option[wandb-secret]}: \
expected the name of a Kubernetes secret, not a key"
  [[ ${option[topology]} =~ ^[0-9]+(x[0-9]+)+$ ]] || fail "--topology=${option[topology]}: expected 8x8 or 2x2x4"
  for side in ${option[topology]//x/ }; do ((hosts *= side)); done
  ((hosts % option[chips] == 0)) || fail "--topology=${option[topology]} cannot be cut into hosts of \
${option[chips]} chips"
  ((hosts /= option[chips]))
  eval "words=($(mounted))" # its own quoting, read back
  [[ ${option[on-demand]} == false ]] || spot=false
  value=([NAME]=$jobset [RESTARTS]=${option[restarts]} [SLICES]=${option[slices]} [HOSTS]=$hosts
    [SERVICE_ACCOUNT]=${option[service-account]} [ACCELERATOR]=${option[accelerator]}
    [TOPOLOGY]=${option[topology]} [IMAGE]=${option[image]} [CHIPS]=${option[chips]} [BUCKET]=$(buckets) [SPOT]=$spot
    [WANDB_SECRET]=${option[wandb-secret]} [ARGUMENTS]=$(yaml_list "${words[@]}"))
  text=$(sed '1,/^# The cluster/d' "$root/launch/gke_jobset.yaml")
  for name in "${!value[@]}"; do
    text=${text//"\${$name}"/"${value[$name]}"}
  done
  # Nodes that are not spot have no such label at all.
  [[ $spot == true ]] || text=$(sed '/gke-spot: "false"/d' <<<"$text")
  [[ -n ${option[wandb-secret]} ]] || text=$(sed '/^ *env:$/,/secretKeyRef/d' <<<"$text")
  printf '%s\n' "$text"
}

case $action in
  run)
    check_trainer cloud
    filled=$(manifest)
    if [[ ${option[dry-run]} == true ]]; then
      printf '%s <<END\n%s\nEND\n' "$(quoted "${kubectl[@]}" apply --filename=-)" "$filled"
    else
      "${kubectl[@]}" apply --filename=- <<<"$filled"
    fi
    ;;
  status)
    run "${kubectl[@]}" get "jobset/$jobset"
    run "${kubectl[@]}" get pods --selector="jobset.sigs.k8s.io/jobset-name=$jobset" --output=wide
    ;;
  logs)
    run "${kubectl[@]}" logs --selector="jobset.sigs.k8s.io/jobset-name=$jobset" --container=train \
      --tail="${option[lines]}" --prefix --max-log-requests=1000
    ;;
  delete) run "${kubectl[@]}" delete "jobset/$jobset" ;;
esac

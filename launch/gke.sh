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
#   delete    stops the run: it saves; `run` continues it
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

# The words as a list of YAML that Kubernetes reads as the same words.
REPLACED='\$\$|\$\([A-Za-z_.-][A-Za-z0-9_.-]*\)' # it puts a variable for $(NAME) and $ for $$; other dollars it leaves
yaml_list() {
  local word list='' LC_ALL=C
  for word in "$@"; do
    word=${word//\\/\\\\}
    word=${word//\"/\\\"}
    word=${word//$'\n'/\\n}
    word=${word//$'\t'/\\t}
    word=${word//$'\xc2\x85'/\\N} # the line ends that YAML knows besides
    word=${word//$'\xe2\x80\xa8'/\\L}
    word=${word//$'\xe2\x80\xa9'/\\P}
    [[ ! $word =~ $REPLACED ]] || word=${word//\$/\$\$}
    list+="\"$word\", "
  done
  printf '[%s]' "${list%, }"
}

manifest() {
  local text filled='' name side hosts=1 words
  local -A value
  [[ $(buckets) != *" "* ]] || fail "run folder and data are in several buckets ($(buckets)): expected one"
  [[ ${option[wandb-secret]} =~ ^([a-z0-9]([a-z0-9.-]*[a-z0-9])?)?$ ]] || fail "--wandb-secret=${option[wandb-secret]}: \
expected the name of a Kubernetes secret, not a key"
  for side in ${option[topology]//x/ }; do ((hosts *= side)); done
  ((hosts % option[chips] == 0)) || fail "--topology=${option[topology]} cannot be cut into hosts of \
${option[chips]} chips"
  ((hosts /= option[chips]))
  mount_words
  value=([NAME]=$jobset [RESTARTS]=${option[restarts]} [SLICES]=${option[slices]} [HOSTS]=$hosts
    [SERVICE_ACCOUNT]=${option[service-account]} [ACCELERATOR]=${option[accelerator]}
    [TOPOLOGY]=${option[topology]} [IMAGE]=${option[image]} [CHIPS]=${option[chips]} [BUCKET]=$(buckets)
    [WANDB_SECRET]=${option[wandb-secret]} [ARGUMENTS]=$(yaml_list "${words[@]}"))
  text=$(sed '1,/^# The cluster/d' "$root/launch/gke_jobset.yaml")
  # Nodes that are not spot have no such label at all.
  [[ ${option[on-demand]} == false ]] || text=$(sed '/gke-spot: "/d' <<<"$text")
  [[ -n ${option[wandb-secret]} ]] || text=$(sed '/^ *env:$/,/secretKeyRef/d' <<<"$text")
  while [[ $text =~ \$\{([A-Z_]+)\} ]]; do # each place once: what a value holds is not filled in again
    filled+=${text%%"${BASH_REMATCH[0]}"*}${value[${BASH_REMATCH[1]}]}
    text=${text#*"${BASH_REMATCH[0]}"}
  done
  printf '%s\n' "$filled$text"
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

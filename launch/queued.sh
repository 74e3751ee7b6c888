#!/usr/bin/env bash
# A queued request for a TPU slice. The slice trains by itself when it comes: its start-up script does the rest.
#
#   launch/queued.sh ACTION --name=NAME --zone=ZONE [--project=P] [options] [-- --config=... --workdir=gs://... ...]
#
#   create    --type=v5litepod-64 [--version=v2-alpha-tpuv5-lite] [--on-demand] [--service-account=EMAIL]
#             [--wandb-secret=NAME]   the secret in Secret Manager that holds the W&B key, for log.wandb
#             (needs the trainer's arguments); spot unless --on-demand is given
#   state     in one word: absent | pending | ready | gone | unknown
#   delete    request and slice; the bucket stays
#
# The slice has the name of the request, so the actions of launch/tpu_vm.sh (status, logs, stop, run) work on it.
# --dry-run prints the commands and the start-up script.
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=launch/common.sh
source "$here/common.sh"

action=${1:-}
shift || true
common="name zone project="
case $action in
  create) parse "$common type version=v2-alpha-tpuv5-lite service-account= wandb-secret= on-demand? keep-code?" "$@" ;;
  delete | state) parse "$common" "$@" ;;
  -h | --help) usage && exit 0 ;;
  *) fail "unknown action '$action'. Known: create state delete. See $(basename "$0") --help" ;;
esac
place

# Runs as root on every worker, at every start of the machine.
startup_script() {
  cat <<SCRIPT
#!/usr/bin/env bash
set -euo pipefail
mkdir -p $HOME_OF_CODE
gcloud storage cat $(quoted "$(code_url)") | tar -xz -C $HOME_OF_CODE
$HOME_OF_CODE/launch/worker.sh setup $(tpu_extras) $(buckets)
$(wandb_variable)$HOME_OF_CODE/launch/worker.sh start $(mounted)
SCRIPT
}

case $action in
  create)
    check_trainer cloud
    send_code
    script=build/${option[name]}-startup.sh
    if [[ ${option[dry-run]} == true ]]; then
      printf '# %s:\n' "$script" && startup_script | sed 's/^/#   /'
    else
      script=$root/$script
      startup_script >"$script"
    fi
    flags=(--accelerator-type="${option[type]}" --runtime-version="${option[version]}" "${place[@]}")
    [[ ${option[on-demand]} == true ]] || flags+=(--spot)
    [[ -z ${option[service-account]} ]] || flags+=(--service-account="${option[service-account]}")
    run gcloud compute tpus queued-resources create "${option[name]}" --node-id="${option[name]}" "${flags[@]}" \
      --metadata-from-file="startup-script=$script"
    ;;
  delete) run gcloud compute tpus queued-resources delete "${option[name]}" "${place[@]}" --force --quiet ;;
  state)
    ask=(gcloud compute tpus queued-resources describe "${option[name]}" "${place[@]}" "--format=value(state.state)")
    [[ ${option[dry-run]} == false ]] || { run "${ask[@]}" && exit; }
    case $(look_up "${ask[@]}") in
      ACTIVE) echo ready ;;
      FAILED | SUSPENDED) echo gone ;;
      absent) echo absent ;;
      unknown) echo unknown ;;
      *) echo pending ;; # WAITING_FOR_RESOURCES, PROVISIONING, CREATING, SUSPENDING, DELETING, ...
    esac
    ;;
esac

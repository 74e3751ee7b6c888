# Sourced by the launchers of this folder: options, dry runs, and what the trainer is given.
# shellcheck shell=bash disable=SC2034  # the scripts use the names
set -euo pipefail

readonly BROKE=1 BAD_INPUT=2 INCOMPLETE=69 REQUEUE=75 # of xsample_jax/errors.py; 0 is finished
readonly HOME_OF_CODE=/opt/xsample      # on every worker
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
declare -A option=()
trainer=() # arguments of python -m xsample_jax.main, with gs://BUCKET/... where they had it

fail() {
  printf 'error: %s\n' "$*" >&2
  exit "$BAD_INPUT"
}

note() { printf '%s %s\n' "$(date -u +%H:%M:%S)" "$*" >&2; }

# The comment at the top of the script is its help.
usage() { sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"; }

# parse SPEC "$@": SPEC names the options: `zone` must be given, `zone=` may be, `zone=x` has a default, `zone?` is a
# switch. What follows -- goes to the trainer.
parse() {
  local spec=$1 word name
  shift
  option=([dry-run]=false)
  for word in $spec; do
    case $word in
      *=*) option[${word%%=*}]=${word#*=} ;;
      *\?) option[${word%\?}]=false ;;
    esac
  done
  while (($#)); do
    name=${1%%=*}
    name=${name#--}
    case $1 in
      --) shift && trainer=("$@") && break ;;
      -h | --help) usage && exit 0 ;;
      --dry-run) option[dry-run]=true ;;
      --?*)
        if [[ " $spec " == *" $name? "* ]]; then
          [[ $1 != *=* ]] || fail "--$name takes no value"
          option[$name]=true
        elif [[ " $spec " == *" $name "* || " $spec " == *" $name="* ]]; then
          if [[ $1 == *=* ]]; then
            option[$name]=${1#*=}
          elif (($# > 1)) && [[ $2 != --* ]]; then
            option[$name]=$2 && shift
          else
            fail "--$name needs a value, as --$name=VALUE"
          fi
        else
          fail "unknown option --$name. Known: $(known "$spec") --dry-run. The trainer's arguments come after --"
        fi
        ;;
      *) fail "unexpected argument '$1'. The trainer's arguments come after --" ;;
    esac
    shift
  done
  for word in $spec; do
    [[ $word == *[=?]* || -n ${option[$word]:-} ]] || fail "--$word is missing. See $(basename "$0") --help"
  done
}

known() {
  local word
  for word in $1; do
    word=${word%%=*}
    printf -- '--%s ' "${word%\?}"
  done
}

# The words as one line that a shell reads back as the same words.
quoted() {
  local word line=
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word=${word@Q}
    line+="$word "
  done
  printf '%s' "${line% }"
}

run() {
  if [[ ${option[dry-run]} == true ]]; then
    printf '%s\n' "$(quoted "$@")"
  else
    "$@"
  fi
}

# The value of the trainer's --NAME=VALUE; nothing where it is not given.
given() {
  local word
  for word in ${trainer[@]+"${trainer[@]}"}; do
    [[ $word != "--$1="* ]] || printf '%s' "${word#*=}"
  done
}

# check_trainer [cloud]: --config and --workdir are there; in a cloud the run folder is in a bucket. No secrets.
check_trainer() {
  local word
  [[ -n $(given config) ]] || fail "--config=configs/NAME.py is missing after --"
  [[ -n $(given workdir) ]] || fail "--workdir=FOLDER is missing after --"
  if [[ ${1:-} == cloud && $(given workdir) != gs://*/* ]]; then
    fail "--workdir=$(given workdir): expected gs://BUCKET/FOLDER, which all workers see and which outlives them"
  fi
  shopt -s nocasematch
  for word in "${trainer[@]}"; do
    [[ ! ${word%%=*} =~ (api_?key|secret|password|token$) ]] || fail "${word%%=*}: no secrets on a command line, where \
everybody on the machine can read them. See launch/README.md, Secrets"
  done
  shopt -u nocasematch
}

# The trainer's arguments as a worker takes them: gs://BUCKET/PATH is mounted as /gcs/BUCKET/PATH.
mounted() {
  local word words=()
  for word in "${trainer[@]}"; do
    [[ $word != --*=gs://* ]] || word=${word%%=gs://*}=/gcs/${word#*=gs://}
    words+=("$word")
  done
  quoted "${words[@]}"
}

# The buckets that the trainer's arguments name, each once.
buckets() {
  printf '%s\n' "${trainer[@]}" | sed -n 's|^--[^=]*=gs://\([^/]*\).*|\1|p' | sort -u | paste -s -d ' '
}

# W&B on the workers: they read the key themselves, from the secret of this name in the cloud's Secret Manager.
check_wandb() {
  [[ ${option[wandb-secret]} =~ ^[A-Za-z0-9_-]*$ ]] || fail "--wandb-secret=${option[wandb-secret]}: expected the name \
of a secret in Secret Manager, not a key"
}
wandb_variable() { [[ -z ${option[wandb-secret]} ]] || printf 'XSAMPLE_WANDB_SECRET=%s ' "${option[wandb-secret]}"; }
tpu_extras() { [[ -z ${option[wandb-secret]} ]] && printf tpu || printf tpu,wandb; }

# Puts the committed code where every worker fetches it: into the run folder, which then also says what was run.
code_url() { printf '%s/launch/code.tar.gz' "$(given workdir)"; }
send_code() {
  local archive=$root/build/${option[name]}.tar.gz
  [[ ${option[keep-code]} == false ]] || return 0
  if [[ ${option[dry-run]} == false ]]; then
    mkdir -p "$root/build"
    [[ -z $(git -C "$root" status --porcelain) ]] || note "warning: what is not committed is not sent"
  else
    archive=build/${option[name]}.tar.gz
  fi
  run git -C "$([[ ${option[dry-run]} == true ]] && echo . || echo "$root")" archive --format=tar.gz \
    --output="$archive" HEAD
  run gcloud storage cp "$archive" "$(code_url)"
}

# Flags that every gcloud command about this slice has.
place() {
  place=("--zone=${option[zone]}")
  [[ -z ${option[project]} ]] || place+=("--project=${option[project]}")
}

# look_up absent-word COMMAND...: one line of its output; the word where the cloud says that there is no such thing.
look_up() {
  local answer
  if answer=$("$@" 2>&1); then
    printf '%s\n' "${answer##*$'\n'}"
  elif [[ ${answer,,} == *not_found* || ${answer,,} == *"not found"* ]]; then
    echo absent
  else
    printf '%s\n' "$answer" >&2
    echo unknown
  fi
}

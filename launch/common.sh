# Sourced by the launchers of this folder: options, dry runs, and what the trainer is given.
# shellcheck shell=bash disable=SC2034  # the scripts use the names
set -euo pipefail

readonly BROKE=1 BAD_INPUT=2 INCOMPLETE=69 REQUEUE=75 # of xsample_jax/errors.py; 0 is finished
readonly HOME_OF_CODE=/opt/xsample      # on every worker
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
declare -A option=()
NOT_TEXT=$'[\x01-\x08\x0b-\x1f\x7f]'
trainer=() # arguments of python -m xsample_jax.main, with gs://BUCKET/... where they had it

# One line, however long or odd the value in it is.
fail() {
  local text="error: $*"
  text=${text//[[:cntrl:]]/ }
  ((${#text} <= 500)) || text=${text::497}...
  printf '%s\n' "$text" >&2
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
    [[ $name =~ ^[a-z-]*$ || $1 != --* ]] || fail "unknown option --$name. Known: $(known "$spec") --dry-run"
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
    name=${word%%[=?]*}
    case $word in
      *\?) ;;
      *=) [[ -z ${option[$name]} ]] || check_value "$name" "${option[$name]}" ;;
      *)
        [[ -n ${option[$name]:-} ]] || fail "--$name is missing. See $(basename "$0") --help"
        check_value "$name" "${option[$name]}"
        ;;
    esac
  done
}

readonly COUNT='[1-9][0-9]{0,8}'
readonly LABEL='[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?'
readonly WORD='[A-Za-z0-9]([A-Za-z0-9._:/@-]{0,252}[A-Za-z0-9])?'
readonly BUCKET='[a-z0-9]([a-z0-9._-]{0,220}[a-z0-9])?'

# check_value NAME VALUE: every option is checked here before it is used. bash runs what it finds in a "number" inside
# ((...)), and much of the rest goes into commands of root or into YAML.
check_value() {
  local name=$1 value=$2 form expected LC_ALL=C # ranges as [a-z] are of ASCII
  case $name in
    name | cluster | zone) form=$LABEL expected="lower-case letters, digits and hyphens, at most 63" ;;
    project) form='[a-z0-9]([a-z0-9.:-]{0,98}[a-z0-9])?' expected="the id of a project" ;;
    bucket) form=$BUCKET expected="the name of a bucket, without gs://" ;;
    slices | chips | patience) form=$COUNT expected="a whole number from 1 to 999999999" ;;
    restarts | crashes | lines) form="0|$COUNT" expected="a whole number from 0 to 999999999" ;;
    seconds) form="(0|$COUNT)([.][0-9]{1,9})?" expected="a number, as 60 or 0.5" ;;
    topology) form='[1-9][0-9]{0,4}(x[1-9][0-9]{0,4}){1,2}' expected="8x8 or 2x2x4" ;;
    gpus) form='[0-9]{1,4}(,[0-9]{1,4})*' expected="numbers, as 0,1,2,3" ;;
    worker) form='all|[0-9]{1,5}([,-][0-9]{1,5})*' expected="all, or numbers, as 0,2-5" ;;
    via) form='queued|tpu_vm' expected="queued or tpu_vm" ;;
    wandb-secret) form='[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}' expected="the name of a secret, not a key" ;;
    workdir) form='[^[:cntrl:]]+' expected="a path without control characters" ;;
    *) form=$WORD expected="letters, digits and . _ : / @ -, a letter or digit first and last" ;;
  esac
  [[ $value =~ ^($form)$ ]] || fail "--$name=${value::100}: expected $expected"
}

known() {
  local word
  for word in $1; do
    word=${word%%=*}
    printf -- '--%s ' "${word%\?}"
  done
}

# The words as text that any shell reads back as the same words.
quoted() {
  local word line='' apostrophe="'\\''" LC_ALL=C
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word="'${word//\'/"$apostrophe"}'"
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

# The value of the trainer's --NAME=VALUE, the last one as the trainer takes it; nothing where it is not given.
given() {
  local word value=
  for word in ${trainer[@]+"${trainer[@]}"}; do
    [[ $word != "--$1="* ]] || value=${word#*=}
  done
  printf '%s' "$value"
}

# check_trainer [cloud]: --config and --workdir are there; in a cloud the run folder is in a bucket. No secrets.
check_trainer() {
  local word workdir
  [[ -n $(given config) ]] || fail "--config=configs/NAME.py is missing after --"
  workdir=$(given workdir && printf .) # $(...) cuts newlines off
  workdir=${workdir%.}
  [[ -n $workdir ]] || fail "--workdir=FOLDER is missing after --"
  check_value workdir "$workdir"
  if [[ ${1:-} == cloud ]]; then
    [[ $workdir == gs://*/[!/]* ]] ||
      fail "--workdir=$workdir: expected gs://BUCKET/FOLDER, which all workers see and which outlives them"
    [[ $workdir != *[][*?\\#]* ]] || fail "--workdir=$workdir: expected a path without [ ] * ? # and backslashes, \
which gcloud takes for patterns"
    for word in "${trainer[@]}"; do
      [[ ! $word =~ $NOT_TEXT ]] || fail "${word::100}: expected no control characters but newline and tab"
    done
    buckets >/dev/null
  fi
  shopt -s nocasematch
  for word in "${trainer[@]}"; do
    [[ ! ${word%%=*} =~ (api_?key|secret|password|token$) ]] || fail "${word%%=*}: no secrets on a command line, where \
everybody on the machine can read them. See launch/README.md, Secrets"
  done
  shopt -u nocasematch
}

# Fills `words` with the trainer's arguments as a worker takes them: gs://BUCKET/PATH is mounted as /gcs/BUCKET/PATH.
mount_words() {
  local word
  words=()
  for word in "${trainer[@]}"; do
    [[ ${word#*=} != gs://* || $word != --* ]] || word=${word%%=*}=/gcs/${word#*=gs://}
    words+=("$word")
  done
}
mounted() {
  local words
  mount_words
  quoted "${words[@]}"
}

# The buckets that the trainer's arguments name, each once and in order. They go into commands and YAML.
buckets() {
  local word bucket named=() LC_ALL=C
  for word in "${trainer[@]}"; do
    [[ ${word#*=} == gs://* && $word == --* ]] || continue
    bucket=${word#*=gs://}
    bucket=${bucket%%/*}
    [[ $bucket =~ ^($BUCKET)$ ]] || fail "${word%%=*}=gs://${bucket::100}: expected the name of a bucket after gs://"
    named+=("$bucket")
  done
  ((${#named[@]} == 0)) || printf '%s\n' "${named[@]}" | sort -u | paste -s -d ' '
}

# W&B on the workers: they read the key themselves, from the secret of this name in the cloud's Secret Manager.
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

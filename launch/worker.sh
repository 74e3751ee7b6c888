#!/usr/bin/env bash
# What a launcher runs on every worker (and what a container runs): set up, train, tell how it went.
#
#   worker.sh setup EXTRA [BUCKET ...]   python, this package with the extra (tpu, cuda12), buckets mounted on /gcs
#   worker.sh run ARGUMENT ...           trains in the foreground; exit code of the trainer
#   worker.sh start ARGUMENT ...         the same in the background; nothing where it is running
#   worker.sh status                     one word and a code: running | ended CODE | idle
#   worker.sh stop                       SIGTERM: the run saves and ends with 75
#   worker.sh logs [LINES]               the end of this worker's log
#
# The log goes to WORKDIR/logs/TIME-HOST.log, renewed every XSAMPLE_LOG_SECONDS (60), as buckets cannot be appended to.
# XSAMPLE_WANDB_SECRET names the secret of the cloud's Secret Manager that holds the W&B key.
set -euo pipefail

home=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
state=${XSAMPLE_STATE:-$home/state}
mkdir -p -- "$state"

fail() {
  local text="error: $*"
  text=${text//[[:cntrl:]]/ }
  printf '%s\n' "${text::500}" >&2
  exit 2
}

setup() {
  local extra=${1:-} bucket LC_ALL=C
  [[ $extra =~ ^[a-z][a-z0-9,]*$ ]] || fail "worker.sh setup $extra: expected an extra of setup.py, as tpu or tpu,wandb"
  shift
  for bucket in "$@"; do
    [[ $bucket =~ ^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$ ]] || fail "worker.sh setup: expected names of buckets, not $bucket"
  done
  if ! command -v uv >/dev/null; then
    python3 -m pip install --quiet uv || curl -LsSf https://astral.sh/uv/install.sh | env UV_INSTALL_DIR=/usr/local/bin sh
  fi
  cd "$home"
  # The system's python is 3.10 on most TPU images, too old for this package.
  [[ -x .venv/bin/python ]] || uv venv --quiet --python 3.11 .venv
  uv pip install --quiet --python .venv/bin/python --constraint constraints.txt --editable ".[$extra]"
  for bucket in "$@"; do
    mount_bucket "$bucket"
  done
}

mount_bucket() {
  local folder=/gcs/$1
  if ! command -v gcsfuse >/dev/null; then
    curl -fsSL https://packages.cloud.google.com/apt/doc/apt-key.gpg -o /usr/share/keyrings/cloud.google.asc
    echo "deb [signed-by=/usr/share/keyrings/cloud.google.asc] https://packages.cloud.google.com/apt" \
      "gcsfuse-$(lsb_release -cs) main" >/etc/apt/sources.list.d/gcsfuse.list
    apt-get -qq -o DPkg::Lock::Timeout=300 update
    apt-get -qq -o DPkg::Lock::Timeout=300 install -y gcsfuse
  fi
  ! mountpoint -q "$folder" || return 0
  mkdir -p "$folder"
  # No cached listings: every worker must see at once what another has written. Renames of checkpoint folders are
  # atomic in buckets with a hierarchical namespace only; the limit lets them pass in others.
  gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 --rename-dir-limit=200000 -o allow_other "$1" "$folder"
}

# The lock is the kernel's, so neither a kill nor a reboot leaves a stale one. The trainer inherits it.
# Asking takes it for a moment, shared, which is why the trainer waits a little for its own.
running() { ! flock --shared --nonblock "$state/lock" true; }

train() {
  local forward=$1 workdir='' word python=${XSAMPLE_PYTHON:-$home/.venv/bin/python} code log attempt again
  local own=() shown='' trainer=''
  shift
  for word in "$@"; do
    [[ $word != --workdir=* ]] || workdir=${word#*=}
  done
  [[ -n $workdir ]] || fail "--workdir=FOLDER is missing"
  [[ ${XSAMPLE_LOG_SECONDS:-60} =~ ^[0-9]+([.][0-9]+)?$ ]] ||
    fail "environment variable XSAMPLE_LOG_SECONDS=$XSAMPLE_LOG_SECONDS: expected a number of seconds"
  command -v "$python" >/dev/null || python=python3 # in a container
  exec 9>"$state/lock"
  flock --wait 5 9 || fail "this worker trains already" # the one at work is left alone, and so are its files
  rm -f -- "$state/exit" "$state/pid"
  log=$state/log
  : >"$log"
  [[ $workdir != -* ]] || workdir=./$workdir
  attempt=$workdir/logs/$(date -u +%Y%m%dT%H%M%S)-$(hostname).log
  if [[ -n ${XSAMPLE_WANDB_SECRET:-} ]]; then
    WANDB_API_KEY=$(gcloud secrets versions access latest --secret="$XSAMPLE_WANDB_SECRET")
    export WANDB_API_KEY
  fi
  cd "$home"
  # The signals of a terminal and of a container reach this shell alone, and are passed on. In the background they are
  # not: a machine that shuts down signals every process itself.
  if [[ $forward == true ]]; then
    trap 'again=true; [[ -z $trainer ]] || kill -TERM "$trainer" || true' TERM INT HUP
  else
    trap 'again=true' TERM INT
  fi
  # Ctrl-C signals all that the terminal runs in the foreground. A trainer in a session of its own hears of it once,
  # from the trap above; a second signal would end it before it has saved.
  [[ $forward == false ]] || own=(setsid)
  ${own[@]+"${own[@]}"} "$python" -u -m xsample_jax.main "$@" >>"$log" 2>&1 &
  trainer=$!
  echo "$trainer" >"$state/pid"
  if [[ $forward == true ]]; then # not a list in the background, which Ctrl-C would end before the last lines
    tail -n +1 -F --pid="$trainer" "$log" 9>&- 2>/dev/null &
    shown=$!
  fi
  copy_log "$log" "$attempt" 9>&- &
  again=true
  while $again; do # wait returns early at a signal
    again=false
    code=0
    wait "$trainer" || code=$?
  done
  [[ -z $shown ]] || wait "$shown" || true # the last lines
  echo "$code" >"$state/exit.new"
  mv "$state/exit.new" "$state/exit"
  echo "exit code $code" >>"$log" # before the copy: one of copy_log that is under way has it then, too
  { mkdir -p "$workdir/logs" && cp "$log" "$attempt"; } ||
    echo "warning: the log could not be copied to $attempt" >&2
  exit "$code"
}

copy_log() {
  while sleep "${XSAMPLE_LOG_SECONDS:-60}" && kill -0 $$ 2>/dev/null && [[ ! -e $state/exit ]]; do
    mkdir -p "${2%/*}" && cp "$1" "$2" || true
  done >/dev/null 2>&1
}

start() {
  local tries
  if running; then
    echo "running already"
    return
  fi
  rm -f -- "$state/exit" "$state/log"
  setsid "$0" background "$@" </dev/null >>"$state/launcher.log" 2>&1 &
  for tries in {1..100}; do
    ! running || { echo "started" && return; }
    [[ ! -e $state/exit ]] || { echo "ended at once: see $state/log" && return; }
    sleep 0.1
  done
  echo "error: it has not started after $((tries / 10)) s: see $state/launcher.log" >&2
  exit 1
}

status() {
  if running; then
    echo "running"
  elif [[ -e $state/exit ]]; then
    echo "ended $(cat "$state/exit")"
  elif [[ -e $state/log ]]; then
    echo "ended 137" # nobody was left to write the code down: killed, or the machine was restarted
  else
    echo "idle"
  fi
}

# signal_trainer SIGNAL: to the process of state/pid, if it holds the lock as our trainer does: a number that was left
# there may be another process by now.
signal_trainer() {
  local pid=''
  [[ ! -f $state/pid ]] || read -r pid <"$state/pid" || true
  [[ $pid =~ ^[1-9][0-9]{0,9}$ && /proc/$pid/fd/9 -ef $state/lock ]] && kill "-$1" "$pid"
}

stop() {
  local told=false
  running || { echo "not running" && return; }
  for _ in {1..60}; do
    $told || ! signal_trainer TERM || told=true # it may have started this moment, and have no number yet
    running || { status && return; }
    sleep 1
  done
  signal_trainer KILL || fail "$state/pid does not name the trainer, which is left running"
  echo "killed after 60 s"
}

action=${1:-}
shift || true
case $action in
  setup) setup "$@" ;;
  run) train true "$@" ;;
  background) train false "$@" ;;
  start) start "$@" ;;
  status) status ;;
  stop) stop ;;
  logs)
    [[ ${1:-20} =~ ^[0-9]{1,9}$ ]] || fail "worker.sh logs $1: expected a number of lines"
    tail -n "${1:-20}" "$state/log"
    ;;
  -h | --help) sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0" ;;
  *) fail "unknown action '$action'. Known: setup run start status stop logs. See worker.sh --help" ;;
esac

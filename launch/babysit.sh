#!/usr/bin/env bash
# Keeps a run going until it is finished: makes the slice, makes it again when it was taken away, resumes.
#
#   launch/babysit.sh --name=NAME --zone=ZONE --type=v5litepod-64 [--project=P] [--version=v2-alpha-tpuv5-lite]
#       [--via=queued]          queued: spot requests (launch/queued.sh); tpu_vm: on-demand slices (launch/tpu_vm.sh)
#       [--seconds=60]          between two looks
#       [--patience=10]         looks without a word from the workers before the slice is replaced; with queued also
#                               those before its start-up script has set up and started them
#       [--crashes=5]           times that workers were killed, missing (69), silent or could not be set up, before it
#                               gives up; a start that ran for --patience looks wipes out those before it
#       [--service-account=EMAIL] [--keep]    --keep leaves the slice there at the end
#       [--wandb-secret=NAME]   the secret in Secret Manager that holds the W&B key, for log.wandb
#       -- --config=... --workdir=gs://... ...
#
# Exit code: 0 finished; 1 the run broke; 2 bad input. The slice is deleted in all three cases (its logs are in
# WORKDIR/logs). Ctrl-C leaves the slice as it is; the same command takes over again. --dry-run prints the commands.
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=launch/common.sh
source "$here/common.sh"

parse "name zone type project= version=v2-alpha-tpuv5-lite via=queued seconds=60 patience=10 crashes=5 \
service-account= wandb-secret= keep?" "$@"
check_trainer cloud

slice=(--name="${option[name]}" --zone="${option[zone]}" --project="${option[project]}")
[[ ${option[dry-run]} == false ]] || slice+=(--dry-run)
code_sent=() secret=()
[[ -z ${option[wandb-secret]} ]] || secret=(--wandb-secret="${option[wandb-secret]}")
make() {
  "$here/${option[via]}.sh" create "${slice[@]}" --type="${option[type]}" --version="${option[version]}" \
    --service-account="${option[service-account]}" "$@" -- "${trainer[@]}"
}
create() {
  if [[ ${option[via]} == queued ]]; then
    make ${secret[@]+"${secret[@]}"} ${code_sent[@]+"${code_sent[@]}"}
  else
    make
  fi
}
setup() {
  "$here/tpu_vm.sh" setup "${slice[@]}" ${secret[@]+"${secret[@]}"} ${code_sent[@]+"${code_sent[@]}"} -- "${trainer[@]}"
}
start() { "$here/tpu_vm.sh" run "${slice[@]}" ${secret[@]+"${secret[@]}"} -- "${trainer[@]}"; }
workers() { "$here/tpu_vm.sh" status "${slice[@]}"; }
stop() { "$here/tpu_vm.sh" stop "${slice[@]}"; }
state() { "$here/${option[via]}.sh" state "${slice[@]}"; }
delete() { "$here/${option[via]}.sh" delete "${slice[@]}"; }
pause() { sleep "${option[seconds]}"; }

finish() {
  note "$2"
  [[ ${option[keep]} == true ]] || delete || note "warning: the slice could not be deleted; delete it by hand"
  exit "$1"
}

if [[ ${option[dry-run]} == true ]]; then
  echo "# at the start, and whenever the slice was taken away:"
  create
  [[ ${option[via]} == queued ]] || { setup && start; }
  echo "# every ${option[seconds]} s:"
  state && workers
  echo "# when the workers were stopped from outside and saved (75), lacked one of them (69), or were killed:"
  start
  echo "# when it was taken away, and at the end:"
  delete
  exit
fi

# What the workers say, in one word: running, missing (not set up), idle (not started), leaving (some have ended, some
# have not), silent; or how the run ended: 0, 1, 2, 75, crash (killed, or one of them was missing).
verdict() {
  local -A seen=()
  local word
  while read -r word; do
    [[ $word =~ ^(0|1|2|75|running|missing|idle)$ ]] || word=crash
    seen[$word]=1
  done < <(sed -n 's/^.*ended \([0-9]*\)$/\1/p; s/^.*\(running\|missing\|idle\)$/\1/p' <<<"$1")
  for word in 2 missing idle running 1 crash 75 0; do # the first that is there says what is to be done
    [[ -n ${seen[$word]:-} ]] || continue
    [[ $word != running || ${#seen[@]} -eq 1 ]] || word=leaving
    echo "$word"
    return
  done
  echo silent
}

# To be called at the end of a start: crashes add up only while no start lasts.
settle() {
  ((lasted < option[patience])) || crashes=0
  lasted=0
}
crashed() {
  ((++crashes <= option[crashes])) ||
    finish "$BROKE" "given up after $crashes crashes ($word); see $(given workdir)/logs"
}

silent=0
lasted=0 # looks that found the workers running since they were started
crashes=0
broke=false
while true; do
  found=$(state)
  case $found in
    absent)
      settle
      silent=0 broke=false
      note "making the slice ${option[name]}"
      if create; then
        [[ ${option[via]} != queued ]] || code_sent=(--keep-code)
      else
        status=$?
        ((status != BAD_INPUT)) || exit "$BAD_INPUT"
        note "it was not made; once more in ${option[seconds]} s"
        pause
      fi
      continue
      ;;
    gone)
      note "the slice was taken away"
      delete || { note "it was not deleted; once more in ${option[seconds]} s" && pause; }
      continue
      ;;
    pending | unknown)
      note "the slice: $found"
      pause
      continue
      ;;
  esac

  said=$(workers) || said= # one that does not answer may come back
  word=$(verdict "$said")
  # Workers that wait for one that never comes look as if they ran, until they say so.
  [[ $said != *"ended $INCOMPLETE"* ]] || lasted=0
  # A queued slice starts its trainer by itself. If that one has broken since it was asked, it must not start again.
  [[ $word != idle || ${option[via]} != queued ]] || word=starting
  case $word in
    running) silent=0 broke=false && ((++lasted)) ;;
    0) finish 0 "finished" ;;
    2) finish "$BAD_INPUT" "bad input; see $(given workdir)/logs" ;;
    1)
      # Workers also break when another one was taken away. The state of the slice says so a little later.
      ! $broke || finish "$BROKE" "the run broke; see $(given workdir)/logs"
      broke=true
      ;;
    75 | idle | crash)
      settle
      [[ $word != crash ]] || crashed
      note "starting the trainer ($word)"
      if start; then silent=0; else ((++silent)); fi
      ;;
    missing | starting | leaving | silent)
      if [[ $word == missing && ${option[via]} == tpu_vm ]]; then
        note "setting the workers up"
        if setup && start; then
          code_sent=(--keep-code)
          continue
        fi
        ((++crashes <= option[crashes])) || finish "$BROKE" "given up: the workers cannot be set up"
      fi
      ((++silent))
      note "waiting for the workers ($word, $silent of ${option[patience]})"
      ;;
  esac
  if ((silent >= option[patience])); then
    silent=0
    settle
    crashed
    if [[ $word == leaving ]]; then
      note "some have ended, others hang: stopping them"
      stop || true
    else
      note "no word from the workers: replacing the slice"
      delete || true
    fi
  fi
  pause
done

"""Stands for gcloud, kubectl, xpk, Slurm and the tools of a worker: python fake_cloud.py PROGRAM ARGUMENT ...

The cloud is a folder, $FAKE_CLOUD: calls.log, buckets/, workers/N/ (the disk of each worker), slice.json (what there
is) and plan.json (what will go wrong):

    workers          how many a slice has
    create_failures  requests that are refused before the first one is granted
    slow             {worker: seconds until its start-up script begins}
    slow_start       seconds between set-up and start in every start-up script
    disturb          one entry per slice or start: null, or {"at": step, "how": "gone" | "term" | "hung"}
    log              the metrics.jsonl whose steps `at` counts
"""

import json
import os
import pathlib
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time

CLOUD = pathlib.Path(os.environ["FAKE_CLOUD"])
SHIM = '#!/bin/sh\nshift 3\nexec {python} -m {module} "$@"\n'  # for: python -u -m xsample_jax.main


def read(name: str) -> dict:
    path = CLOUD / name
    return json.loads(path.read_text()) if path.exists() else {}


def write(name: str, value: dict) -> None:
    (CLOUD / f"{name}.new").write_text(json.dumps(value))
    (CLOUD / f"{name}.new").rename(CLOUD / name)


def local(path: str) -> pathlib.Path:
    return CLOUD / "buckets" / path.removeprefix("gs://")


def on_worker(number: int, command: str, **options) -> subprocess.Popen:
    """Runs what gcloud would run on the worker: its disk and its mounts are folders here."""
    home = CLOUD / "workers" / str(number)
    home.mkdir(parents=True, exist_ok=True)
    command = command.replace("/opt/xsample", str(home)).replace("/gcs/", f"{CLOUD}/buckets/")
    place = read("slice.json")["place"]
    environment = os.environ | {"FAKE_HOST": f"w-{number}", "XSAMPLE_LOG_SECONDS": "1"}
    if place["count"] > 1:
        environment |= {
            "JAX_COORDINATOR_ADDRESS": place["address"],
            "JAX_NUM_PROCESSES": str(place["count"]),
            "JAX_PROCESS_ID": str(number),
        }
    return subprocess.Popen(["bash", "-c", command], env=environment, **options)


def new_place() -> dict:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return {"address": f"127.0.0.1:{server.getsockname()[1]}", "count": read("plan.json").get("workers", 1)}


def flag(words: list[str], name: str) -> str:
    return next((word.partition("=")[2] for word in words if word.startswith(f"--{name}=")), "")


def gcloud(words: list[str]) -> int:
    match words:
        case ["storage", "cp", source, target]:
            local(target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, local(target))
            return 0
        case ["storage", "cat", source]:
            sys.stdout.buffer.write(local(source).read_bytes())
            return 0
        case ["compute", "tpus", kind, action, *rest]:
            return slices(kind, action, rest)
    print(f"ERROR: (gcloud) invalid choice: {shlex.join(words)}", file=sys.stderr)
    return 2


def slices(kind: str, action: str, rest: list[str]) -> int:
    now = read("slice.json")
    exists = (bool(now) and now["kind"] == kind) or action == "ssh"
    if action == "create":
        plan = read("plan.json")
        if plan.get("create_failures", 0):
            write("plan.json", plan | {"create_failures": plan["create_failures"] - 1})
            print("ERROR: (gcloud) RESOURCE_EXHAUSTED: There is no more capacity in the zone.", file=sys.stderr)
            return 1
        if now:
            print("ERROR: (gcloud) ALREADY_EXISTS", file=sys.stderr)
            return 1
        write("slice.json", {"kind": kind, "looks": 0, "state": "new", "place": new_place()})
        if script := flag(rest, "metadata-from-file").removeprefix("startup-script="):
            started()
            text = pathlib.Path(script).read_text()
            head, start, tail = text.partition("/opt/xsample/launch/worker.sh start")
            text = f"{head}sleep {plan.get('slow_start', 0)}; {start}{tail}"
            for number in range(plan.get("workers", 1)):
                wait = plan.get("slow", {}).get(str(number), 0)
                script = f"sleep {wait}\n{text}"
                log = (CLOUD / f"startup-{number}.log").open("a")
                on_worker(number, script, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
        return 0
    if not exists or (action == "ssh" and (not now or now["state"] == "gone")):
        print(f"ERROR: (gcloud) NOT_FOUND: Resource '{rest[0]}' was not found", file=sys.stderr)
        return 1
    if action == "describe":
        return describe(kind, now)
    if action == "delete":
        kill_all(signal.SIGKILL)
        shutil.rmtree(CLOUD / "workers", ignore_errors=True)
        (CLOUD / "slice.json").unlink()
        return 0
    return ssh(rest)


def describe(kind: str, now: dict) -> int:
    if now["state"] == "new":  # the first look finds it on its way
        print("PROVISIONING" if kind == "queued-resources" else "CREATING")
        write("slice.json", now | {"state": "ready"})
    elif now["state"] == "gone":
        print("SUSPENDED" if kind == "queued-resources" else "PREEMPTED")
    else:
        print("ACTIVE" if kind == "queued-resources" else "READY")
    return 0


def ssh(rest: list[str]) -> int:
    command = flag(rest, "command")
    if " start " in command:
        write("slice.json", read("slice.json") | {"place": new_place()})
        started()
    if " status" in command:
        disturb()
        if read("slice.json")["state"] == "gone":
            print("ERROR: (gcloud) ssh: connect to host port 22: Connection timed out", file=sys.stderr)
            return 255
    count = read("plan.json").get("workers", 1)
    running = [on_worker(number, command) for number in range(count)]
    return max(process.wait() for process in running)


def started() -> None:
    """The next entry of `disturb` holds from now on."""
    plan = read("plan.json")
    queue = plan.get("disturb", [])
    write("plan.json", plan | {"disturb": queue[1:], "next": queue[0] if queue else None})


def disturb() -> None:
    """Waits for the step that the plan names, as a cloud would not, and then does what the plan says."""
    plan = read("plan.json")
    if not plan.get("next"):
        return
    log, limit = pathlib.Path(plan["log"]), time.monotonic() + 120
    while not (log.exists() and sum('"loss"' in line for line in log.read_text().splitlines()) >= plan["next"]["at"]):
        assert time.monotonic() < limit, "the step was never reached"
        time.sleep(0.05)
    kill_all(signal.SIGTERM if plan["next"]["how"] == "term" else signal.SIGKILL)
    if plan["next"]["how"] == "gone":
        write("slice.json", read("slice.json") | {"state": "gone"})
    write("plan.json", plan | {"next": None})


def kill_all(what: signal.Signals) -> None:
    """The signal to the trainers of all workers; SIGKILL to their launchers too, as when a machine is taken away."""
    for path in CLOUD.glob("workers/*/state/pid"):
        trainer = int(path.read_text())
        if not is_ours(trainer):
            continue  # it has ended, and the number may be another's
        if what == signal.SIGKILL:
            os.killpg(os.getpgid(trainer), what)
        else:
            os.kill(trainer, what)


def is_ours(process: int) -> bool:
    try:
        return str(CLOUD) in pathlib.Path(f"/proc/{process}/cmdline").read_text()
    except FileNotFoundError:
        return False


def git(words: list[str]) -> int:
    if "archive" in words:
        with tarfile.open(flag(words, "output"), "w:gz") as archive:
            archive.add(pathlib.Path(words[words.index("-C") + 1]) / "launch", "launch")
    return 0


def uv(words: list[str]) -> int:
    if words[0] == "venv":
        python = pathlib.Path(".venv/bin/python")
        python.parent.mkdir(parents=True)
        python.write_text(SHIM.format(python=sys.executable, module=os.environ["FAKE_TRAINER"]))
        python.chmod(0o755)
    return 0


def srun(words: list[str]) -> int:
    """All tasks run the command; the exit code is the highest."""
    while words[0].startswith("--"):
        words = words[1:]
    return subprocess.call([sys.executable, "-m", os.environ["FAKE_TRAINER"], *words[4:]])


def main(program: str, *words: str) -> int:
    with (CLOUD / "calls.log").open("a") as log:
        log.write(shlex.join([program, *words]) + "\n")
    match program:
        case "sudo":
            os.execvp(words[0], words)
        case "hostname":
            print(os.environ.get("FAKE_HOST", "here"))
            return 0
        case "squeue":
            print(read("plan.json").get("job", "RUNNING"))
            return 0
        case "gcloud" | "git" | "uv" | "srun":
            return globals()[program](list(words))
        case "kubectl" | "xpk":
            (CLOUD / "stdin").write_text("" if program == "xpk" else sys.stdin.read())
            return read("plan.json").get("answer", 0)
    return 0  # gcsfuse, mountpoint (it is mounted), scontrol, sbatch


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

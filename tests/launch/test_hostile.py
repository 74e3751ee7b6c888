"""Hostile values for every option of every launcher (faults B11): refused in one line, or passed on; none runs."""

import os
import subprocess

import pytest
import yaml

from tests.launch.cases import ROOT
from xsample_jax.errors import BAD_INPUT

TRAINER = ("--config=c.py", "--workdir=gs://lab/r")
SLICE = {"name": "n", "zone": "z", "project": "p"}
CLUSTER = {"cluster": "c", "zone": "z", "project": "p"}
# (script and action, options that are there, options to be tried, whether the trainer's arguments are needed)
COMMANDS = {
    "tpu_vm.sh create": (SLICE | {"type": "t"}, ("version", "service-account"), False),
    "tpu_vm.sh setup": (SLICE, ("wandb-secret",), True),
    "tpu_vm.sh logs": (SLICE, ("lines", "worker"), False),
    "queued.sh create": (SLICE | {"type": "t"}, ("version", "service-account", "wandb-secret"), True),
    "babysit.sh": (
        SLICE | {"type": "t"},
        ("version", "via", "seconds", "patience", "crashes", "service-account", "wandb-secret"),
        True,
    ),
    "xpk.sh cluster": (CLUSTER | {"type": "t"}, ("slices",), False),
    "xpk.sh storage": (CLUSTER | {"bucket": "b"}, (), False),
    "xpk.sh run": (CLUSTER | {"name": "n", "type": "t", "image": "i"}, ("slices", "restarts"), True),
    "xpk.sh logs": (CLUSTER | {"name": "n"}, ("lines",), False),
    "gke.sh run": (
        {"name": "n", "image": "i"},
        ("context", "accelerator", "topology", "chips", "slices", "service-account", "restarts", "wandb-secret"),
        True,
    ),
    "gke.sh logs": ({"name": "n"}, ("lines", "context"), False),
    "gpu_host.sh start": ({}, ("gpus",), True),
    "gpu_host.sh logs": ({"workdir": "w"}, ("lines",), False),
}
NUMBERS = {"lines", "slices", "restarts", "chips", "seconds", "patience", "crashes", "topology"}
HOSTILE = [
    "$(touch canary)", "`touch canary`", "hosts[$(touch canary)]", "a[`touch canary`]", "x; touch canary",
    "a && touch canary", "'; touch canary; '", '"; touch canary; "', "a\ntouch canary", "two words", "${SLICES}",
    "$HOME", "-x", "--flag", "*", "a\\b", "\x07", "é{}", "true: [1]",
]  # fmt: skip
NO_NUMBERS = ["08", "-1", "1e9", "0x10", "99999999999999999999", "1+1", "option", "", "+3", "1 2", "00"]


def tried():
    for command, (given, more, _) in COMMANDS.items():
        for name in (*given, *more):
            for value in HOSTILE + (NO_NUMBERS if name in NUMBERS else []):
                if (command, name) != ("gpu_host.sh logs", "workdir"):
                    yield command, name, value


def call(command, options, trainer, folder):
    script, *action = command.split()
    words = [f"--{name}={value}" for name, value in options.items()]
    line = ["bash", str(ROOT / "launch" / script), *action, *words, "--dry-run"]
    line += ["--", *trainer] if trainer else []
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, env={"PATH": os.environ["PATH"]})


@pytest.mark.parametrize("command", COMMANDS)
def test_values_that_no_option_can_have_are_refused_before_anything_reads_them(command, tmp_path):
    """faults B11: subscripts, arithmetic, quotes, newlines, leading zeros, in every option of every script."""
    given, _, needs = COMMANDS[command]
    trainer = ("--config=c.py", "--workdir=r") if command.startswith("gpu") else TRAINER
    for _, name, value in (entry for entry in tried() if entry[0] == command):
        answer = call(command, given | {name: value}, trainer if needs else (), tmp_path)
        assert answer.returncode == BAD_INPUT, (name, value, answer.stdout)
        assert answer.stdout == ""
        assert answer.stderr.startswith("error: --" + name)
        assert answer.stderr.count("\n") == 1
        assert len(answer.stderr) < 510
    assert not list(tmp_path.iterdir())  # no canary, and no folder


WORDS = [
    f"--config.name={value}" for value in (*HOSTILE[:-3], "it's", "$(NAME) $$ ${IMAGE}", "a\tb", "x=gs://b/c", "#", "~")
]
ODD = (*TRAINER, *WORDS, "--config.data.path=gs://lab/it's $(touch canary)")
EXPECTED = ["--config=c.py", "--workdir=/gcs/lab/r", *WORDS, "--config.data.path=/gcs/lab/it's $(touch canary)"]


def read_by_bash(text, folder):
    """The words of a command line as bash reads them, with everything but the words disabled."""
    program = 'eval "set -- $1"; for word in "$@"; do printf "%s\\0" "$word"; done'
    found = subprocess.run(
        ["bash", "-c", program, "bash", text], cwd=folder, capture_output=True, text=True, check=True
    )
    return found.stdout.split("\0")[:-1]


@pytest.mark.parametrize("command", ["tpu_vm.sh run", "queued.sh create", "gke.sh run", "slurm", "gpu_host.sh run"])
def test_the_trainer_gets_its_arguments_exactly(command, tmp_path):
    """faults B11: through gcloud and the shell of a worker, a start-up script, a manifest, Slurm and one host."""
    if command == "slurm":
        line = ["bash", str(ROOT / "launch/slurm.sbatch"), "--dry-run", *ODD]
        answer = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
        text = answer.stdout[answer.stdout.index("srun ") : answer.stdout.index("\n# where that ends")]
        found, expected = read_by_bash(text, tmp_path), list(ODD)
    else:
        options = {"tpu": SLICE, "que": SLICE | {"type": "t"}, "gke": {"name": "n", "image": "i"}, "gpu": {}}[
            command[:3]
        ]
        odd = [word.replace("gs://lab", "/lab") for word in ODD] if command.startswith("gpu") else ODD
        answer = call(command, options, odd, tmp_path)
        expected = list(odd) if command.startswith("gpu") else EXPECTED
        if command.startswith("tpu"):
            found = read_by_bash(read_by_bash(answer.stdout, tmp_path)[-1].removeprefix("--command="), tmp_path)
        elif command.startswith("que"):
            comments = answer.stdout.split("-startup.sh:\n")[1].split("\ngcloud ")[0]
            script = "\n".join(line.removeprefix("#   ") for line in comments.split("\n"))
            found = read_by_bash(script[script.rindex("/opt/xsample/launch/worker.sh start") :], tmp_path)
        elif command.startswith("gke"):
            found = kubernetes(answer.stdout)
        else:
            found = read_by_bash(answer.stdout, tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert found[-len(expected) :] == expected
    assert not list(tmp_path.iterdir())


def kubernetes(text):
    manifest = yaml.safe_load(text.split("\n", 1)[1].removesuffix("END\n"))
    pod = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    return [word.replace("$$", "$") for word in pod["containers"][0]["args"]]  # as Kubernetes does


@pytest.mark.parametrize(
    ("workdir", "words"),
    [
        ("gs://lab;touch canary/r", "name of a bucket"), ("gs://$(touch canary)/r", "name of a bucket"),
        ("gs:///r", "bucket"),
        ("gs://lab/", "gs://BUCKET/FOLDER"), ("gs://lab/r*", "patterns"), ("gs://lab/a\nb", "control characters"),
        ("gs://Lab/r", "name of a bucket"),
    ],
)  # fmt: skip
def test_buckets_are_names_of_buckets(workdir, words, tmp_path):
    """faults B11: they go into the start-up script of root and into a manifest."""
    for command in ("queued.sh create", "gke.sh run"):
        options = SLICE | {"type": "t"} if command.startswith("que") else {"name": "n", "image": "i"}
        answer = call(command, options, ("--config=c.py", f"--workdir={workdir}"), tmp_path)
        assert answer.returncode == BAD_INPUT
        assert words in answer.stderr
    assert not list(tmp_path.iterdir())


def test_the_last_workdir_counts_as_it_does_for_the_trainer(tmp_path):
    answer = call("queued.sh create", SLICE | {"type": "t"}, (*TRAINER, "--workdir=gs://lab/last"), tmp_path)
    assert "gs://lab/last/launch/code.tar.gz" in answer.stdout


def test_stop_signals_no_process_but_the_trainer(tmp_path):
    """faults B11: a number that was left in state/pid, while the lock is held by a start that has none yet."""
    stranger = subprocess.Popen(["sleep", "60"], start_new_session=True)  # so that its group is its own
    holders, stops = [], []
    try:
        for number, pid in enumerate(("{stranger}", "-{stranger}", "", "x[$(touch canary)]")):  # all at a time
            state = tmp_path / str(number)
            state.mkdir()
            holders.append(subprocess.Popen(["flock", "--exclusive", str(state / "lock"), "sleep", "1.5"]))
            while subprocess.call(["flock", "--shared", "--nonblock", str(state / "lock"), "true"]) == 0:
                pass
            (state / "pid").write_text(pid.format(stranger=stranger.pid) + "\n")
            line = ["bash", str(ROOT / "launch/worker.sh"), "stop"]
            environment = os.environ | {"XSAMPLE_STATE": str(state)}
            stops.append(subprocess.Popen(line, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True))
        for stop in stops:
            said = stop.communicate(timeout=50)[1]
            assert stop.returncode == 0, said
        assert stranger.poll() is None
        assert not (tmp_path / "canary").exists()
    finally:
        stranger.kill()
        for process in (stranger, *holders, *stops):
            process.wait()


@pytest.mark.parametrize(
    "words",
    [["setup", "tpu;touch canary"], ["setup"], ["setup", "tpu", "../x"], ["logs", "-x"], ["logs", "a[1]"], ["destroy"]],
)
def test_a_worker_refuses_what_it_cannot_use(words, tmp_path):
    environment = os.environ | {"XSAMPLE_STATE": str(tmp_path / "state")}
    line = ["bash", str(ROOT / "launch/worker.sh"), *words]
    answer = subprocess.run(line, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert (answer.returncode, answer.stdout) == (BAD_INPUT, "")
    assert answer.stderr.startswith("error: ")
    assert answer.stderr.count("\n") == 1

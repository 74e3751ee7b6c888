"""What the launchers would run: each command as it was read and approved, and no command is run to tell it."""

import shlex
import shutil

import pytest
import yaml

from tests.launch.cases import CASES, GOLDEN, ROOT, TRAINER, dry_run

TOOLS = ("bash", "basename", "cat", "date", "dirname", "paste", "sed", "sort")


@pytest.fixture(scope="module")
def only_text_tools(tmp_path_factory):
    """A PATH without gcloud, kubectl, git, or anything else that could change something."""
    folder = tmp_path_factory.mktemp("bin")
    for tool in TOOLS:
        (folder / tool).symlink_to(shutil.which(tool))
    return {"PATH": str(folder)}


@pytest.mark.parametrize("case", CASES)
def test_the_commands_are_those_of_the_golden_file(case, only_text_tools):
    answer = dry_run(case, env=only_text_tools)
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr == ""
    assert answer.stdout == (GOLDEN / f"{case}.txt").read_text()


def test_there_is_a_golden_file_for_each_case_and_a_case_for_each_script():
    assert {path.stem for path in GOLDEN.iterdir()} == set(CASES)
    scripts = {path.name for path in (ROOT / "launch").iterdir() if path.suffix in (".sh", ".sbatch")}
    covered = {case.split()[0] if isinstance(case, str) else case[0] for case in CASES.values()}
    assert scripts - {"common.sh", "worker.sh"} == covered


def test_odd_words_reach_the_trainer_as_they_were_given():
    """Through the shell of this machine (gcloud's argument) and that of the worker."""
    expected = ["--workdir=/gcs/lab/runs/it's mine", '--config.name=a "b" $HOME; `id`']
    command = shlex.split(dry_run("tpu_vm_run_odd").stdout)[-1].removeprefix("--command=")
    assert shlex.split(command)[-2:] == expected
    script = [line[4:] for line in dry_run("queued_create_odd").stdout.splitlines() if line.startswith("#   ")]
    assert shlex.split(script[-1])[-2:] == expected
    manifest = yaml.safe_load(dry_run("gke_run_v6e").stdout.split("\n", 1)[1].removesuffix("END\n"))
    assert container(manifest)["args"][-2:] == expected


def container(manifest):
    pod = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    return pod["containers"][0]


def test_the_manifest_has_a_pod_for_each_host_and_knows_the_exit_codes():
    from xsample_jax.errors import BAD_INPUT, FAILED

    manifest = yaml.safe_load(dry_run("gke_run").stdout.split("\n", 1)[1].removesuffix("END\n"))
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["completions"] == job["parallelism"] == 16  # 64 chips, 4 in a host
    assert container(manifest)["resources"]["limits"] == {"google.com/tpu": 4}
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"]["values"] == [FAILED, BAD_INPUT]
    assert manifest["spec"]["failurePolicy"]["rules"][0]["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert "gke-spot" in job["template"]["spec"]["nodeSelector"].popitem()[0]
    two = yaml.safe_load(dry_run("gke_run_v6e").stdout.split("\n", 1)[1].removesuffix("END\n"))
    assert two["spec"]["replicatedJobs"][0]["replicas"] == 2
    assert two["spec"]["replicatedJobs"][0]["template"]["spec"]["completions"] == 4
    assert "gke-spot" not in str(
        two["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["nodeSelector"]
    )
    assert "${" not in dry_run("gke_run").stdout


def test_the_key_of_wandb_is_a_secret_of_the_cluster():
    manifest = yaml.safe_load(dry_run("gke_run_wandb").stdout.split("\n", 1)[1].removesuffix("END\n"))
    secret = {"secretKeyRef": {"name": "wandb-key", "key": "WANDB_API_KEY"}}
    assert container(manifest)["env"] == [{"name": "WANDB_API_KEY", "valueFrom": secret}]
    without = yaml.safe_load(dry_run("gke_run").stdout.split("\n", 1)[1].removesuffix("END\n"))
    assert "env" not in container(without)
    assert container(without).keys() == container(manifest).keys() - {"env"}


def test_the_trainer_of_the_cases_is_one_that_exists():
    assert (ROOT / TRAINER.split()[1].removeprefix("--config=")).exists()

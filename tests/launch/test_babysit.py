"""The babysitter against a cloud that refuses, is slow, and takes slices away; the trainer only counts."""

import json

import pytest

from xsample_jax.errors import BAD_INPUT, FAILED, FINISHED, INCOMPLETE

COUNTING = "tests.launch.counting_trainer"
SLICE = ("--name=xclr", "--zone=z", "--type=v5litepod-8", "--seconds=0.2", "--patience=20")
TRAINER = ("--", "--config=c.py", "--workdir=gs://lab/run")


def babysit(cloud, *words, until=3):
    return cloud.launch("babysit.sh", *SLICE, *words, *TRAINER, f"--until={until}", trainer=COUNTING)


def codes(cloud, number, *ends):
    cloud.bucket("lab/run").mkdir(parents=True, exist_ok=True)
    (cloud.bucket("lab/run") / f"codes-{number}.json").write_text(json.dumps(ends))


def steps(cloud):
    return [json.loads(line)["step"] for line in (cloud.bucket("lab/run") / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("via", ["queued", "tpu_vm"])
def test_it_recovers_from_refusals_and_preemption_and_leaves_nothing_behind(cloud, via):
    log = str(cloud.bucket("lab/run/metrics.jsonl"))
    cloud.plan(workers=2, create_failures=2, slow={"1": 1}, log=log, disturb=[{"at": 2, "how": "gone"}])
    answer = babysit(cloud, f"--via={via}", until=8)
    assert answer.returncode == FINISHED, answer.stderr
    kind = {"queued": "queued-resources", "tpu_vm": "tpu-vm"}[via]
    assert cloud.calls(f"gcloud compute tpus {kind} create xclr") == 4  # two refused, one taken away, one that finished
    assert cloud.calls(f"gcloud compute tpus {kind} delete xclr") == 2
    assert steps(cloud) == list(range(1, 9))  # what was done is not done again
    assert not (cloud.folder / "slice.json").exists()
    assert "RESOURCE_EXHAUSTED" in answer.stderr
    assert "the slice was taken away" in answer.stderr
    # Refused requests send the code again; a slice that is replaced gets the code that the first one had.
    assert cloud.calls("gcloud storage cp") == {"queued": 3, "tpu_vm": 1}[via]
    ended = [path for path in cloud.logs() if path.read_text().endswith("exit code 0\n")]
    assert {path.stem[-3:] for path in ended} == {"w-0", "w-1"}
    assert all("finished" in path.read_text() for path in ended)


def test_stopped_from_outside_it_starts_again_on_the_same_slice(cloud):
    log = str(cloud.bucket("lab/run/metrics.jsonl"))
    cloud.plan(log=log, disturb=[{"at": 2, "how": "term"}])
    answer = babysit(cloud, until=8)
    assert answer.returncode == FINISHED, answer.stderr
    assert "starting the trainer (75)" in answer.stderr
    assert cloud.calls("gcloud compute tpus queued-resources create") == 1
    assert steps(cloud) == list(range(1, 9))


@pytest.mark.parametrize(("code", "expected"), [(FAILED, "the run broke"), (BAD_INPUT, "bad input")])
def test_a_run_that_needs_a_person_is_not_started_again(cloud, code, expected):
    cloud.plan(workers=2, slow_start=1.5)  # it is seen set up and not started, which is the start-up script's to do
    codes(cloud, 0, code)
    codes(cloud, 1, code)
    answer = babysit(cloud)
    assert answer.returncode == code
    assert "waiting for the workers (starting" in answer.stderr
    assert expected in answer.stderr
    assert cloud.calls("gcloud compute tpus queued-resources create") == 1
    assert cloud.calls("gcloud compute tpus tpu-vm ssh") == cloud.calls(
        "gcloud compute tpus tpu-vm ssh xclr --worker=all --zone=z --quiet "
        "'--command=sudo /opt/xsample/launch/worker.sh status"
    )
    assert not (cloud.folder / "slice.json").exists()  # it costs nothing while somebody looks at the logs
    assert len(cloud.logs()) == 2


def test_a_worker_that_broke_since_another_was_taken_away_is_no_reason_to_stop(cloud):
    """1 on one worker; the cloud says a look later that the slice is gone."""
    log = str(cloud.bucket("lab/run/metrics1.jsonl"))
    cloud.plan(workers=2, log=log, disturb=[{"at": 2, "how": "gone"}])
    codes(cloud, 0, FAILED)
    answer = babysit(cloud, until=4)
    assert answer.returncode == FINISHED, answer.stderr
    assert cloud.calls("gcloud compute tpus queued-resources create") == 2


def test_workers_that_are_killed_again_and_again_are_given_up(cloud):
    cloud.plan()
    codes(cloud, 0, *[134] * 5)
    answer = babysit(cloud, "--crashes=2", "--keep")
    assert answer.returncode == FAILED
    assert "given up after 3 crashes" in answer.stderr
    assert json.loads((cloud.bucket("lab/run") / "codes-0.json").read_text()) == [134, 134]
    assert (cloud.folder / "slice.json").exists()


def test_crashes_before_a_start_that_lasted_do_not_count(cloud):
    cloud.plan()
    codes(cloud, 0, 134, [134, 5], 134, 134)
    answer = babysit(cloud, "--via=tpu_vm", "--crashes=1", "--patience=3")
    assert answer.returncode == FAILED
    assert "given up after 2 crashes" in answer.stderr
    assert json.loads((cloud.bucket("lab/run") / "codes-0.json").read_text()) == [134]


def test_a_process_that_is_late_is_waited_for_again(cloud):
    cloud.plan()
    codes(cloud, 0, INCOMPLETE)
    answer = babysit(cloud)
    assert answer.returncode == FINISHED, answer.stderr
    assert cloud.calls("gcloud compute tpus queued-resources create") == 1


def test_a_process_that_never_comes_is_given_up_however_long_it_is_waited_for(cloud):
    cloud.plan()
    codes(cloud, 0, *[[INCOMPLETE, 5]] * 3)
    answer = babysit(cloud, "--via=tpu_vm", "--crashes=1", "--patience=3")
    assert answer.returncode == FAILED
    assert "given up after 2 crashes" in answer.stderr
    assert not (cloud.folder / "slice.json").exists()


def test_workers_that_never_speak_are_replaced_a_few_times(cloud):
    cloud.plan()
    words = (*SLICE, "--patience=2", "--crashes=1", *TRAINER)
    answer = cloud.launch("babysit.sh", *words, trainer=COUNTING, XSAMPLE_STATE="/dev/null/none")
    assert answer.returncode == FAILED
    assert "given up after 2 crashes (missing)" in answer.stderr
    assert cloud.calls("gcloud compute tpus queued-resources create") == 2
    assert not (cloud.folder / "slice.json").exists()


def test_a_worker_that_hangs_when_the_other_has_ended_is_stopped(cloud):
    cloud.plan(workers=2)
    codes(cloud, 0, 75)
    codes(cloud, 1, "hang")
    answer = babysit(cloud, "--patience=5")
    assert answer.returncode == FINISHED, answer.stderr
    assert "some have ended, others hang: stopping them" in answer.stderr

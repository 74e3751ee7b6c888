"""Who am I among the processes: flags, launchers, and errors before anything starts."""

import pytest

from xsample_jax.distributed import ProcessInfo, detect_process
from xsample_jax.errors import ConfigError

LAUNCHER_VARIABLES = (
    "SLURM_JOB_ID SLURM_STEP_NODELIST SLURM_NTASKS SLURM_PROCID SLURM_LOCALID OMPI_MCA_orte_hnp_uri "
    "OMPI_COMM_WORLD_SIZE OMPI_COMM_WORLD_RANK JAX_COORDINATOR_ADDRESS JAX_NUM_PROCESSES JAX_PROCESS_ID PMI_SIZE "
    "JOB_COMPLETION_INDEX KUBERNETES_SERVICE_HOST JAX_COORDINATOR_PORT"
)


@pytest.fixture
def place_in(monkeypatch):
    """place_in(variables, *flags): detect_process with nothing but `variables` from launchers in the environment."""
    import os

    for name in LAUNCHER_VARIABLES.split():
        monkeypatch.delenv(name, raising=False)

    def found(variables, *flags):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return detect_process(*flags, environment=os.environ)

    return found


def slurm(tasks="4", index="3", nodes="node[007-010]"):
    return {
        "SLURM_JOB_ID": "8192", "SLURM_STEP_NODELIST": nodes, "SLURM_NTASKS": tasks, "SLURM_PROCID": index,
        "SLURM_LOCALID": "0",
    }  # fmt: skip


def test_alone_where_nobody_says_otherwise(place_in):
    assert place_in({}) is None
    assert place_in({}, None, 1) is None
    assert place_in({}, "a:1", 1, 0) is None


def test_flags(place_in):
    assert place_in({}, "a:1", 2, 1) == ProcessInfo("a:1", 2, 1, "flags")
    # Flags are believed before a launcher, and one process is one process under any launcher.
    assert place_in(slurm(), "a:1", 2, 1) == ProcessInfo("a:1", 2, 1, "flags")
    assert place_in(slurm(), None, 1) is None


def test_slurm(place_in):
    assert place_in(slurm()) == ProcessInfo("node007:61440", 4, 3, "Slurm")
    assert place_in({"JAX_COORDINATOR_PORT": "77"}) == ProcessInfo("node007:77", 4, 3, "Slurm")


def test_one_task_is_one_process(place_in):
    assert place_in(slurm("1", "0", "node1")) is None


def test_open_mpi(place_in):
    orte = {"OMPI_MCA_orte_hnp_uri": "4096.0;tcp://10.0.0.5,10.1.0.5:3", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}
    ranks = {"OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_RANK": "2"}
    assert place_in(orte | ranks) == ProcessInfo("10.0.0.5:61441", 8, 2, "Open MPI")


def test_a_launcher_that_jax_does_not_know_is_not_taken_for_one_process(place_in):
    ranks = {"OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_RANK": "2"}  # Open MPI 5 says no more
    with pytest.raises(ConfigError, match=r"coordinator_address = None.*OMPI_COMM_WORLD_SIZE is 8"):
        place_in(ranks)
    assert place_in(ranks, "a:1") == ProcessInfo("a:1", 8, 2, "address and OMPI_COMM_WORLD_SIZE")


def test_pods_of_an_indexed_job(place_in):
    with pytest.raises(ConfigError, match=r"JOB_COMPLETION_INDEX = '3'.*JAX_NUM_PROCESSES"):
        place_in({"JOB_COMPLETION_INDEX": "3"})
    said = {"JAX_COORDINATOR_ADDRESS": "job-0.svc:8476", "JAX_NUM_PROCESSES": "4"}
    assert place_in(said) == ProcessInfo("job-0.svc:8476", 4, 3, "address and JAX_NUM_PROCESSES")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("a:1", None, None), r"--num_processes, --process_id = None.*--coordinator_address=a:1 is given"),
        (("a:1", 2, None), r"--process_id = None"),
        ((None, 2, 1), r"--coordinator_address = None.*--num_processes=2, --process_id=1"),
        ((None, None, 1), r"--coordinator_address, --num_processes = None"),
        (("a", 2, 1), r"--coordinator_address = 'a'.*host:port"),
        (("a:b", 2, 1), r"--coordinator_address = 'a:b'.*host:port"),
        (("a:1", 2, 2), r"--process_id = 2.*0\.\.1"),
        (("a:1", 2, -1), r"--process_id = -1"),
        (("a:1", 0, 0), r"--num_processes = 0"),
        ((None, 1, 1), r"--coordinator_address = None"),
    ],
)
def test_flags_that_are_wrong_or_half_given(place_in, flags, words):
    with pytest.raises(ConfigError, match=words):
        place_in({}, *flags)


def test_numbers_that_are_none(place_in):
    with pytest.raises(ConfigError, match=r"JAX_NUM_PROCESSES = 'many'.*whole number"):
        place_in({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "many"})

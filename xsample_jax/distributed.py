"""Many processes, one run: who they are, how they start, and where they wait for each other.

No process is started here: a launcher (TPU pod, GKE, Slurm, Open MPI, a person) starts one process per host or per GPU,
and each finds out here which of them it is. Waiting always has a limit, and then names who is missing.
"""

import contextlib
import dataclasses
import itertools
import os
import socket
import sys
from collections.abc import Callable, Mapping
from typing import NoReturn

import jax
from jax._src import clusters, distributed

from xsample_jax.errors import ConfigError, ProcessError
from xsample_jax.io.code_version import differing_files, fingerprint
from xsample_jax.io.console import say
from xsample_jax.io.rendezvous import Hello, missing, rendezvous, split_address

START_LIMIT = 300.0  # seconds
WAIT_LIMIT = 600.0
EVERYWHERE = ("--coordinator_address", "--num_processes", "--process_id")
# What launchers tell a process, in the order in which it is believed.
COUNTS = ("JAX_NUM_PROCESSES", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_NTASKS")
INDICES = ("JAX_PROCESS_ID", "JOB_COMPLETION_INDEX", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")
LAUNCHERS = {
    "ompi": "Open MPI", "slurm": "Slurm", "gketpu": "GKE TPU slice", "gcetpu": "TPU VM slice", "k8s": "Kubernetes job",
}  # fmt: skip
BY_HAND = (
    "Give --coordinator_address=HOST:PORT (an address of process 0), --num_processes and --process_id; or "
    "--num_processes=1 to run alone."
)
_rounds = itertools.count()


@dataclasses.dataclass(frozen=True)
class ProcessInfo:
    """The place of this process in the run. address: host:port of process 0; found: the launcher that said so."""

    address: str
    count: int
    index: int
    found: str


def detect_process(
    address: str | None = None,
    count: int | None = None,
    index: int | None = None,
    environment: Mapping[str, str] = os.environ,
) -> ProcessInfo | None:
    """This process among all, from the flags, else from the launcher; None when it runs alone.

    With an address, what the other two flags leave open is read from COUNTS and INDICES in the environment. Without
    any flag jax's own detection looks for Open MPI, Slurm, TPU slices and Kubernetes jobs.

    Raises ConfigError for flags that are wrong or half given, and for a launcher that does not say enough.
    """
    if count == 1 and index in (None, 0):
        return None
    address = address or environment.get("JAX_COORDINATOR_ADDRESS")
    if address is None and count is None and index is None:
        return _detect(environment)
    found = "flags"
    if address is not None and (count is None or index is None):
        counted, numbered = _first_number(COUNTS, environment), _first_number(INDICES, environment)
        count = counted[1] if count is None else count
        index = numbered[1] if index is None else index
        found = f"address and {counted[0] or numbered[0]}"
    given = dict(zip(EVERYWHERE, (address, count, index), strict=True))
    lacking = [flag for flag, value in given.items() if value is None]
    if lacking:
        there = ", ".join(f"{flag}={value}" for flag, value in given.items() if value is not None)
        raise ConfigError(", ".join(lacking), None, f"a value, as {there} is given", BY_HAND)
    try:
        split_address(address)
    except ValueError:
        raise ConfigError("--coordinator_address", address, "host:port, as 10.0.0.1:8476") from None
    if count < 1:
        raise ConfigError("--num_processes", count, "at least 1")
    if not 0 <= index < count:
        raise ConfigError("--process_id", index, f"a number in 0..{count - 1}, as --num_processes is {count}")
    return ProcessInfo(address, count, index, found) if count > 1 else None


def _first_number(names, environment: Mapping[str, str]) -> tuple[str | None, int | None]:
    for name in names:
        if environment.get(name):
            try:
                return name, int(environment[name])
            except ValueError:
                raise ConfigError(f"environment variable {name}", environment[name], "a whole number") from None
    return None, None


def _detect(environment: Mapping[str, str]) -> ProcessInfo | None:
    in_a_job = "JOB_COMPLETION_INDEX" in environment  # set in every pod of an indexed Kubernetes job
    for kind in clusters.ClusterEnv._cluster_types:
        if kind.opt_in_only_method or kind.name not in LAUNCHERS or (kind.name == "k8s" and not in_a_job):
            continue
        launcher = LAUNCHERS[kind.name]
        try:
            if not kind.is_env_present():
                continue
            count, index = kind.get_process_count(), kind.get_process_id()
            if count == 1:
                return None
            port = environment.get("JAX_COORDINATOR_PORT")
            address = kind.get_coordinator_address(timeout_secs=START_LIMIT, override_coordinator_port=port)
        except Exception as error:  # whatever jax's detection stumbles over: a variable, a host name, a permission
            raise ConfigError(launcher, str(error), "an environment that says who takes part", BY_HAND) from error
        return ProcessInfo(address, count, index, launcher)
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):
        count = _first_number((name,), environment)[1]
        if count is not None and count > 1:
            fix = "Give --coordinator_address=HOST:PORT, an address of process 0; the launcher has said the rest."
            raise ConfigError("--coordinator_address", None, f"a value, as {name} is {count}", fix)
    if in_a_job:
        expected = "JAX_COORDINATOR_ADDRESS and JAX_NUM_PROCESSES beside it, or the package kubernetes (jax[k8s])"
        raise ConfigError("JOB_COMPLETION_INDEX", environment["JOB_COMPLETION_INDEX"], expected, BY_HAND)
    return None


def start(
    place: ProcessInfo | None,
    config_json: str,
    describe_difference: Callable[[str, str], str],
    seconds: float = START_LIMIT,
) -> None:
    """Starts jax on all processes once they are all up with the same config and code; alone (None) it starts nothing.

    Call it before anything asks jax for its devices. `describe_difference` puts the difference between two configs,
    both as JSON, into words. Raises ProcessError or ConfigError, as rendezvous does.
    """
    if place is None:
        return
    describers = {"config": describe_difference, "code": differing_files}
    own = Hello(place.index, place.count, socket.gethostname() or "unnamed", {"config": config_json} | fingerprint())
    hosts = rendezvous(place.address, own, seconds, describers)
    try:
        jax.distributed.initialize(
            place.address,
            place.count,
            place.index,
            local_device_ids=_own_gpu(hosts, place.index),
            cluster_detection_method="deactivate",
            initialization_timeout=int(seconds),
        )
    except RuntimeError as error:
        raise ProcessError("start of jax", str(error), f"a coordinator at {place.address}", BY_HAND) from error
    if place.index == 0:
        say(
            f"{place.count} processes on {len(set(hosts))} host(s), {jax.device_count()} {jax.devices()[0].platform} "
            f"devices ({place.found}, process 0 is {place.address})"
        )


def _own_gpu(hosts: list[str], index: int) -> list[int] | None:
    """The one GPU for this process where several share a host; None, all devices, where it is alone on its host.

    TPU and CPU take no notice. A launcher that shows each process its own GPU, and JAX_LOCAL_DEVICE_IDS, come first.
    """
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if hosts.count(hosts[index]) == 1 or len(visible) == 1 or "JAX_LOCAL_DEVICE_IDS" in os.environ:
        return None
    return [hosts[:index].count(hosts[index])]


def allgather_text(what: str, text: str, seconds: float = WAIT_LIMIT) -> list[str]:
    """Gives `text` to all processes and returns what each has given, in their order: a barrier with news.

    Raises ProcessError that names the processes that have not come within `seconds`.
    """
    client = distributed.global_state.client
    if client is None:
        return [text]
    index, count = jax.process_index(), jax.process_count()
    folder = f"xsample_jax/{next(_rounds)}_{what.replace(' ', '_')}/"  # all pass the same points in the same order
    client.key_value_set(folder + str(index), text)
    try:
        client.wait_at_barrier(folder, int(seconds * 1000))
    except jax.errors.JaxRuntimeError as error:
        here = {_number(name) for name, _ in client.key_value_dir_get(folder)}
        if len(here) == count:
            raise
        raise missing(count, here, seconds, what) from error
    given = {_number(name): value for name, value in client.key_value_dir_get(folder)}
    return [given[number] for number in range(count)]


def _number(name: str) -> int:
    return int(name.rpartition("/")[2])


def barrier(where: str, seconds: float = WAIT_LIMIT) -> None:
    """Waits for all processes; ProcessError names those that have not come within `seconds`."""
    allgather_text(where, "here", seconds)


def log_info(text: str) -> None:
    """Prints, in the first process only."""
    if jax.process_index() == 0:
        say(text)


def name_of_process() -> str:
    """Words for a message, " of process 2", when there are several; else nothing."""
    return f" of process {jax.process_index()}" if distributed.global_state.client is not None else ""


def exit_process(code: int) -> NoReturn:
    """Ends this process after an error. With others, it does not wait for them to end, which they would not do.

    A moment is given to processes that fail together, so that each can say why before the first one takes jax's
    coordinator with it.
    """
    if distributed.global_state.client is None:
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.suppress(Exception):  # the others are still at work, or gone: either way this process ends
        barrier("an error", seconds=5.0)
    os._exit(code)

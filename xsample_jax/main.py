"""xsample train --config=quickstart --workdir=runs/quickstart [--config.KEY=VALUE ...], also python -m xsample_jax.main

The config is a file or a name; `xsample list configs` and `xsample list keys` list what can be given and set.

Trains what the config says, evaluates it and writes a report into the run folder. Started again on the same folder it
resumes, or exits if the run is finished. --dry_run compiles and describes the run without a single step;
--dry_run --topology=v5e:4x4 does so for a TPU slice with the TPU compiler, --topology=h100x8 for GPUs with theirs, on
any machine. On several hosts every process gets the same command (docs/scaling.md).
"""

import os
import signal
import sys
import traceback
import warnings

from absl import app, flags, logging

from xsample_jax.errors import FAILED, REQUEUE, StalledError, UserError
from xsample_jax.io.console import say
from xsample_jax.tools.cli import keep_programs, show_warning, split_overrides
from xsample_jax.topology import quiet_environment, without_tpu

_CONFIG = flags.DEFINE_string("config", None, "Config file, as configs/quickstart.py or configs/quickstart.py:smoke.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Run folder: config, metrics, checkpoints, evaluation, report.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Describe the run (shapes, memory, FLOPs, first batch); train nothing.")
_TOPOLOGY = flags.DEFINE_string("topology", None, "With --dry_run: compile for a TPU slice or GPUs: v5e:16x16, h100x8.")
_ADDRESS = flags.DEFINE_string("coordinator_address", None, "HOST:PORT of process 0, where no launcher says it.")
_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes; 1: run alone, whatever the launcher.")
_PROCESS = flags.DEFINE_integer("process_id", None, "Number of this process, from 0.")
_START_LIMIT = flags.DEFINE_float("start_timeout", 300, "Seconds to wait for all processes to start.", lower_bound=1)
_ALLOW_CHANGE = flags.DEFINE_bool(
    "allow_config_change", False, "Resume a run folder with another config; what changed goes into history.jsonl."
)
_EXTRA = "Give --config=configs/quickstart.py, for example."


def main(argv: list[str], overrides: list[str]) -> None:
    if len(argv) > 1:
        fix = f"Did you mean --config={argv[1]}? " if not _CONFIG.value and "=" not in argv[1] else ""
        raise UsageError(f"Unexpected arguments {argv[1:]}. {fix}Config values are set as --config.batch_size=512.")
    if not _CONFIG.value:
        raise UsageError(f"--config is missing. {_EXTRA}")
    if not _WORKDIR.value and not _DRY_RUN.value:
        raise UsageError("--workdir is missing: the folder that the run writes to.")
    if _TOPOLOGY.value is None:  # a program for devices that are not here cannot be read back
        keep_programs(os.environ)
    from xsample_jax.config import config_to_json, load_config

    config = load_config(_CONFIG.value, overrides)
    if _DRY_RUN.value:
        from xsample_jax.prepare.prepare import prepare_folder
        from xsample_jax.reports.dry_run import dry_run

        if not _TOPOLOGY.value:  # with it, no data is read
            config = prepare_folder(config)
        dry_run(config, workdir=_WORKDIR.value, topology=_TOPOLOGY.value)
        return
    from xsample_jax.config.saved import describe_difference
    from xsample_jax.distributed import detect_process, name_of_process, start
    from xsample_jax.faults.preemption import Preempted

    place = detect_process(_ADDRESS.value, _PROCESSES.value, _PROCESS.value)
    start(place, config_to_json(config), describe_difference, _START_LIMIT.value)
    from xsample_jax.loop import train

    try:
        train(config, _WORKDIR.value, _ALLOW_CHANGE.value)
    except Preempted:
        sys.exit(REQUEUE)
    except StalledError as error:
        say(f"error{name_of_process()}: {error}", error=True)
        os._exit(FAILED)  # at a normal exit Python would wait for the very threads that hang


class UsageError(UserError):
    """The command line itself is wrong."""

    def __init__(self, message: str):
        ValueError.__init__(self, message)


def _parse_flags(arguments: list[str]) -> list[str]:
    """The arguments that are not flags; UsageError for a flag that is unknown or wrong (absl exits with 1)."""
    try:
        return flags.FLAGS(arguments)
    except flags.Error as error:
        raise UsageError(f"{error} (--help lists all flags)") from None


def run() -> None:
    """Entry point: errors of users end with their message, not with a traceback, and an exit code (errors.py)."""
    if {"--help", "-help", "-h"} & set(sys.argv[1:]):  # absl would end with 1
        app.usage(shorthelp=True, writeto_stdout=True)
        sys.exit(0)
    for number in (signal.SIGUSR1, signal.SIGUSR2):  # for a profile, while steps run; before, they end nothing
        signal.signal(number, signal.SIG_IGN)
    if without_tpu():  # before jax is imported, which the config does
        quiet_environment(os.environ)
    overrides, arguments = split_overrides(sys.argv)
    logging.set_verbosity(logging.WARNING)
    warnings.showwarning = show_warning
    try:
        app.run(lambda argv: main(argv, overrides), argv=arguments, flags_parser=_parse_flags)
    except UserError as error:
        if "xsample_jax.distributed" not in sys.modules:  # the command line is wrong: no need to load jax to say so
            say(f"error: {error}", error=True)
            sys.exit(error.exit_code)
        from xsample_jax.distributed import exit_process, name_of_process

        say(f"error{name_of_process()}: {error}", error=True)
        exit_process(error.exit_code)
    except Exception:
        from xsample_jax.distributed import exit_process, name_of_process

        say(traceback.format_exc(), error=True)
        if name_of_process():
            advice = "see above. Where a connection was closed, read the log of the process that ended first."
            say(f"error{name_of_process()}: {advice}", error=True)
        exit_process(FAILED)


if __name__ == "__main__":
    run()

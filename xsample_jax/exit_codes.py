"""Exit codes of python -m xsample_jax.main, for launchers: whether to start the same command again."""

FINISHED = 0  # the run is done
FAILED = 1  # the run broke though its input was fine: diverged, disk full at the end, data stalled
BAD_INPUT = 2  # config, data, folder or checkpoint: the same command fails again until it is mended
INCOMPLETE = 69  # a process of the run was missing or late: start it again, but not for ever (EX_UNAVAILABLE)
REQUEUE = 75  # stopped from outside and saved: start the same command again (EX_TEMPFAIL of sysexits.h)

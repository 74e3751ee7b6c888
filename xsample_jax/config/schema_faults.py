"""Config keys of what happens when something goes wrong (docs/resume.md)."""

from xsample_jax.config.key import Key

FAULTS = {
    "non_finite": Key(
        str,
        "stop",
        "Loss, gradient or parameters not finite: stop (with a dump), skip (the update), or rollback (to the last "
        "checkpoint, and on with later data).",
        choices=("stop", "skip", "rollback"),
    ),
    "skips": Key(int, 10, "skip: updates skipped in a row before the run stops.", minimum=1),
    "rollbacks": Key(int, 3, "rollback: times a run goes back before it stops.", minimum=1),
    "data_timeout": Key(float, 600.0, "Seconds that a batch may take before the run stops with all stacks.", above=0),
    "grace": Key(
        float, 25.0, "Seconds from SIGTERM to the end of the process, saved or not (clouds kill after 30).", above=0
    ),
}

"""The manual: every config key with its type, default and meaning. A config is this tree with some values changed."""

from xsample_jax.config.key import Key
from xsample_jax.config.schema_data import AUGMENT, DATA
from xsample_jax.config.schema_faults import FAULTS
from xsample_jax.config.schema_model import MODEL
from xsample_jax.config.schema_objective import LOSS, OBJECTIVE
from xsample_jax.config.schema_run import CHECKPOINT, EVAL, LOG
from xsample_jax.config.schema_training import MESH, OPTIMIZER, PRECISION

SCHEMA = {
    "name": Key(str, "run", "Name of the run in logs and reports."),
    "seed": Key(int, 0, "Seed of parameters, data order and augmentation.", minimum=0),
    "steps": Key(int, None, "Optimiser steps; give this or epochs.", minimum=1, optional=True),
    "epochs": Key(float, None, "Passes over the training split; give this or steps.", above=0, optional=True),
    "batch_size": Key(int, 256, "Images per step over all devices. The loss sees views * batch_size rows.", minimum=2),
    "views": Key(int, 2, "Augmented views of every image.", minimum=1),
    "data": DATA,
    "augment": AUGMENT,
    "model": MODEL,
    "objective": OBJECTIVE,
    "loss": LOSS,
    "optimizer": OPTIMIZER,
    "precision": PRECISION,
    "mesh": MESH,
    "checkpoint": CHECKPOINT,
    "faults": FAULTS,
    "eval": EVAL,
    "log": LOG,
}


def flat_keys(section: dict = SCHEMA, prefix: str = "") -> dict[str, Key]:
    """Returns every key under its dotted name, as `{"optimizer.b1": Key(...)}`, in the order of the schema."""
    flat = {}
    for name, entry in section.items():
        flat |= flat_keys(entry, f"{prefix}{name}.") if isinstance(entry, dict) else {prefix + name: entry}
    return flat

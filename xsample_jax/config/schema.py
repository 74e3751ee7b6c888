"""Every config key, as one tree: what a run keeps and shows here, the other sections in schema_*.py."""

from xsample_jax.config.key import Key
from xsample_jax.config.schema_data import AUGMENT, DATA
from xsample_jax.config.schema_model import FAULTS, MESH, MODEL, OPTIMIZER, PRECISION
from xsample_jax.config.schema_objective import LOSS, OBJECTIVE

CHECKPOINT = {
    "every": Key(int, 1000, "Steps between checkpoints; one is always written at the end.", minimum=1),
    "keep_latest": Key(int, 2, "Newest checkpoints kept.", minimum=1),
    "keep_best": Key(int, 1, "Best checkpoints kept by checkpoint.metric.", minimum=0),
    "metric": Key(
        str,
        None,
        "Evaluation metric that ranks checkpoints, by its better side: errors and distances are best when small, "
        "and what has no better side (geometry/isotropy) is refused. None: keep only the newest.",
        optional=True,
    ),
    "resume_from": Key(
        str,
        None,
        "Run folder to start from when this run has no checkpoint of its own.",
        optional=True,
        start=True,
    ),
}

EVAL = {
    "suite": Key(
        str,
        "emoji",
        "Evaluation at the end and every eval.every steps: emoji, probe (kNN + ridge on labels), shapes (a probe per "
        "attribute), classifier (by the classes that the objective learns), episodes (few-shot) or none.",
        choices=("emoji", "probe", "shapes", "classifier", "episodes", "none"),
    ),
    "split": Key(str, "test", "Split that is evaluated (emoji: val or test concepts)."),
    "train_split": Key(str, "train", "Split whose features train the probes."),
    "every": Key(int, None, "Steps between evaluations. None: only at the end.", minimum=1, optional=True),
    "patience": Key(
        int,
        None,
        "End the run when this many evaluations in a row brought no better checkpoint.metric (early stopping). "
        "None: do not.",
        minimum=1,
        optional=True,
    ),
    "batch_size": Key(int, 256, "Images per evaluation step over all devices.", minimum=1, maximum=2**20),
    "map": Key(
        str,
        "pca",
        "Map of the evaluated images in the report: pca (two principal axes) or umap (neighbors together; extra umap).",
        choices=("pca", "umap"),
    ),
    "views": Key(
        int,
        0,
        "Features are the mean over this many random views of every image, as augment makes them; 0: the plain view.",
        minimum=0,
        maximum=256,
    ),
    "stop": Key(
        tuple[dict, ...],
        (),
        "Rules that end a run after an evaluation, whichever holds first: {'metric': NAME, 'at_most': a number}. They "
        "are looked at every eval.every steps.",
    ),
    "episodes": {
        "way": Key(int, 5, "Classes of an episode of the evaluator episodes.", minimum=2, maximum=2**12),
        "shot": Key(int, 1, "Images of each class that make its prototype.", minimum=1, maximum=2**12),
        "query": Key(int, 4, "Images of each class that are classified.", minimum=1, maximum=2**12),
        "count": Key(int, 1000, "Episodes, drawn by the seed.", minimum=2, maximum=10**6),
    },
    "baselines": Key(
        tuple[str, ...],
        ("untrained", "pixels"),
        "What else the final evaluation measures, for comparison: untrained (the model at step 0), pixels (the image "
        "itself, 16 x 16). Each costs one more pass over the splits.",
        choices=("untrained", "pixels"),
    ),
    "online_probe": Key(
        bool,
        False,
        "Train an online linear probe of the labels on stop-gradient features, and log its accuracy.",
    ),
}

LOG = {
    "every": Key(int, 10, "Steps between lines of metrics.jsonl and progress.", minimum=1),
    "profile": Key(
        tuple[int, ...],
        (),
        "XProf trace of a window of steps: first step, number of steps; () = none. SIGUSR1 traces the next steps.",
        minimum=1,
        lengths=(0, 2),
    ),
    "wandb": Key(str, None, "Weights & Biases project to log to as well (extra wandb). None: do not.", optional=True),
    "to": Key(
        str,
        None,
        "module:Class to log to as well, made with (config, run folder). None: do not.",
        optional=True,
    ),
}


# A config is this tree with some values changed.
SCHEMA = {
    "name": Key(str, "run", "Name of the run in logs and reports."),
    "seed": Key(int, 0, "Seed of parameters, data order and augmentation.", minimum=0, maximum=2**32 - 1),
    "steps": Key(int, None, "Optimizer steps; give this or epochs.", minimum=1, optional=True),
    "epochs": Key(
        float, None, "Passes over the training split; give this or steps.", above=0, maximum=1e6, optional=True
    ),
    "batch_size": Key(
        int, 256, "Images per step over all devices. The loss sees views * batch_size rows.", minimum=2, maximum=2**22
    ),
    "views": Key(int, 2, "Augmented views of every image.", minimum=1, maximum=64),
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

"""Config keys of what a run keeps and shows: checkpoints, evaluation, log."""

from xsample_jax.config.key import Key

CHECKPOINT = {
    "every": Key(int, 1000, "Steps between checkpoints; one is always written at the end.", minimum=1),
    "keep_latest": Key(int, 2, "Newest checkpoints kept.", minimum=1),
    "keep_best": Key(int, 1, "Best checkpoints kept by checkpoint.metric.", minimum=0),
    "metric": Key(
        str,
        None,
        "Evaluation metric that ranks checkpoints (larger is better). None: keep only the newest.",
        optional=True,
    ),
    "resume_from": Key(
        str, None, "Run folder to start from when this run has no checkpoint of its own.", optional=True
    ),
}

EVAL = {
    "suite": Key(
        str,
        "emoji",
        "Evaluation at the end and every eval.every steps: emoji, probe (kNN + ridge on labels), shapes (a probe per "
        "attribute) or none.",
        choices=("emoji", "probe", "shapes", "none"),
    ),
    "split": Key(str, "test", "Split that is evaluated (emoji: val or test concepts)."),
    "train_split": Key(str, "train", "Split whose features train the probes."),
    "every": Key(int, None, "Steps between evaluations. None: only at the end.", minimum=1, optional=True),
    "batch_size": Key(int, 256, "Images per evaluation step over all devices.", minimum=1),
    "online_probe": Key(
        bool,
        False,
        "Train a linear classifier of the labels along, on features that it does not change, and log its accuracy.",
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
}

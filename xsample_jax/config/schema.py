"""The manual: every config key with its type, default and meaning. A config is this tree with some values changed."""

import dataclasses
from typing import Any

from xsample_jax.graphs.sources import SOURCES
from xsample_jax.objectives.presets import PRESETS

PRESET_NAMES, SOURCE_NAMES = tuple(PRESETS), tuple(SOURCES)


@dataclasses.dataclass(frozen=True)
class Key:
    """One config key.

    Attributes:
      type: bool, int, float, str, or `tuple[int, ...]`-like for tuples. An int is accepted for a float.
      default: the value when a config says nothing; None only where `optional`.
      help: one line: meaning and unit.
      choices: the only allowed values, if any.
      minimum, maximum: inclusive bounds; `above`, `below`: exclusive ones. Applied to each element of a tuple.
      optional: None is allowed (and means what `help` says).
      lengths: the allowed numbers of elements of a tuple; () = any.
      increasing: the elements of a tuple must not decrease (a range: low, high).
    """

    type: Any
    default: Any
    help: str
    choices: tuple = ()
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None
    optional: bool = False
    lengths: tuple[int, ...] = ()
    increasing: bool = False


SCHEMA = {
    "name": Key(str, "run", "Name of the run in logs and reports."),
    "seed": Key(int, 0, "Seed of parameters, data order and augmentation.", minimum=0),
    "steps": Key(int, None, "Optimiser steps; give this or epochs.", minimum=1, optional=True),
    "epochs": Key(float, None, "Passes over the training split; give this or steps.", above=0, optional=True),
    "batch_size": Key(int, 256, "Images per step over all devices. The loss sees views * batch_size rows.", minimum=2),
    "views": Key(int, 2, "Augmented views of every image.", minimum=1),
    "data": {
        "source": Key(
            str,
            "emoji",
            "emoji (embedded in the package) or records (a prepared folder).",
            choices=("emoji", "records"),
        ),
        "path": Key(str, None, "Folder of the record set (manifest.json inside); for source=records.", optional=True),
        "split": Key(str, "train", "Split that is trained on."),
        "fingerprint": Key(
            str, None, "Refuse to open a set whose manifest has another fingerprint. None: do not check.", optional=True
        ),
        "image_size": Key(int, 64, "Side in pixels of the uint8 images that the host delivers.", minimum=8),
        "caption": Key(
            str,
            "first",
            "Which caption (and embedding) of an image: first, mean (embeddings only), or its index as text.",
            choices=("first", "mean", "0", "1", "2", "3"),
        ),
        "hierarchy": Key(
            tuple[str, ...],
            ("group", "subgroup"),
            "Attributes of the records above the class in the class tree, root first, for the hierarchy graph.",
        ),
        "on_error": Key(
            str,
            "raise",
            "Broken record: raise, or skip (the next good record takes its place; counted and logged).",
            choices=("raise", "skip"),
        ),
        "threads": Key(int, 4, "Decoding threads of a host.", minimum=1),
        "prefetch": Key(int, 4, "Batches decoded ahead of the device.", minimum=1),
    },
    "augment": {
        "size": Key(int, 32, "Side in pixels of the views that the encoder sees.", minimum=8),
        "crop_scale": Key(
            tuple[float, ...],
            (0.08, 1.0),
            "Random resized crop: area range as a share of the image; () = plain resize.",
            above=0,
            maximum=1,
            lengths=(0, 2),
            increasing=True,
        ),
        "local_size": Key(int, 16, "Side in pixels of small crops, for objectives that have them (swav).", minimum=8),
        "local_crop_scale": Key(
            tuple[float, ...],
            (0.05, 0.3),
            "Small crops: area range as a share of the image.",
            above=0,
            maximum=1,
            lengths=(2,),
            increasing=True,
        ),
        "crop_ratio": Key(
            tuple[float, ...],
            (0.75, 4 / 3),
            "Random resized crop: aspect ratio range (log-uniform).",
            above=0,
            lengths=(2,),
            increasing=True,
        ),
        "flip": Key(float, 0.5, "Probability of a horizontal flip.", minimum=0, maximum=1),
        "jitter": Key(float, 0.8, "Probability of colour jitter.", minimum=0, maximum=1),
        "jitter_strength": Key(
            tuple[float, ...],
            (0.4, 0.4, 0.4, 0.1),
            "Colour jitter: brightness, contrast, saturation, hue ranges.",
            minimum=0,
            maximum=1,
            lengths=(4,),
        ),
        "grey": Key(float, 0.2, "Probability of greyscale.", minimum=0, maximum=1),
        "blur": Key(float, 0.0, "Probability of Gaussian blur.", minimum=0, maximum=1),
        "blur_sigma": Key(
            tuple[float, ...],
            (0.1, 2.0),
            "Gaussian blur: range of sigma in pixels at side 224, scaled to augment.size.",
            above=0,
            lengths=(2,),
            increasing=True,
        ),
        "auto_augment": Key(bool, False, "AutoAugment, ImageNet policy, one draw per image and view."),
        "background": Key(
            str,
            "random_colour",
            "Ground under images with alpha: random_colour per view, white, or grey.",
            choices=("random_colour", "white", "grey"),
        ),
        "mean": Key(tuple[float, ...], (0.485, 0.456, 0.406), "Per-channel mean taken off (0..1 scale).", lengths=(3,)),
        "std": Key(
            tuple[float, ...],
            (0.229, 0.224, 0.225),
            "Per-channel standard deviation divided by (0..1 scale).",
            above=0,
            lengths=(3,),
        ),
    },
    "model": {
        "encoder": Key(
            str,
            "resnet50",
            "Image encoder (models/towers.py).",
            choices=("resnet18", "resnet34", "resnet50", "vit_ti", "vit_s", "vit_b"),
        ),
        "width": Key(int, 64, "ResNet: channels of the first stage.", minimum=4),
        "stem": Key(
            str,
            "imagenet",
            "ResNet: imagenet (7x7 stride 2 + max-pool) or cifar (3x3 stride 1).",
            choices=("imagenet", "cifar"),
        ),
        "patch_size": Key(int, 16, "ViT: side of a patch in pixels.", minimum=1),
        "conv_impl": Key(
            str,
            "auto",
            "conv (XLA convolution), dot (matrix products), auto (dot on CPU, else conv).",
            choices=("auto", "conv", "dot"),
        ),
        "head": {
            "hidden": Key(
                tuple[int, ...], (2048,), "Widths of the hidden layers of the projection head; () = linear.", minimum=1
            ),
            "dim": Key(int, 128, "Width of the embedding that the loss sees.", minimum=2),
            "batch_norm": Key(bool, True, "Batch-normalise the hidden layers of the projection head."),
        },
        "text": {
            "layers": Key(
                int,
                0,
                "Transformer layers of the text tower; 0 = a linear map of the frozen caption embedding.",
                minimum=0,
            ),
            "width": Key(int, 256, "Width of the text tower.", minimum=8),
            "heads": Key(int, 4, "Attention heads of the text tower.", minimum=1),
            "length": Key(int, 32, "Tokens per caption (cut or padded).", minimum=2),
        },
    },
    "objective": {
        "preset": Key(str, "xclr", "Named objective (docs/objectives.md).", choices=PRESET_NAMES),
        "graph": Key(
            str,
            None,
            "Target graph source in place of the preset's (graphs/sources.py). None: the preset's.",
            choices=SOURCE_NAMES,
            optional=True,
        ),
        "terms": Key(
            tuple[dict, ...],
            None,
            "Terms written out in place of the preset's, dicts with the fields of Term (objectives/terms.py).",
            optional=True,
        ),
        "temperature": Key(float, None, "tau of the student logits; None: the preset's.", above=0, optional=True),
        "learn_temperature": Key(
            bool, None, "Learn tau (clamped to [0.01, 1]); None: the preset's choice.", optional=True
        ),
        "target_temperature": Key(
            float, None, "tau_s of the target softmax; None: the preset's.", above=0, optional=True
        ),
        "target_neighbours": Key(
            float,
            None,
            "Choose tau_s on every batch so that a target row has this many effective neighbours, exp(entropy).",
            above=1,
            optional=True,
        ),
        "target_same_mass": Key(
            float,
            None,
            "Choose tau_s on every batch so that a target row puts this mass on keys with its own caption.",
            above=0,
            below=1,
            optional=True,
        ),
        "teacher": Key(
            float,
            None,
            "Momentum of the EMA encoder; None: the preset's (or no teacher).",
            minimum=0,
            below=1,
            optional=True,
        ),
        "queue": Key(int, None, "Rows of the queue of past keys; None: the preset's.", minimum=0, optional=True),
        "prototypes": Key(int, None, "Learned prototypes; None: the preset's.", minimum=0, optional=True),
        "centre": Key(bool, False, "Centre the caption embeddings of the batch before their cosines."),
    },
    "loss": {
        "impl": Key(
            str,
            "auto",
            "dense (all pairs at once), streaming (tiles: memory linear in the batch) or auto (streaming if large).",
            choices=("auto", "dense", "streaming"),
        ),
        "tile": Key(int, 1024, "Rows of a tile of the streaming loss.", minimum=8),
        "grad_cache": Key(
            int,
            1,
            "Parts in which the batch goes through the image encoder (GradCache): less memory, one more forward pass.",
            minimum=1,
        ),
        "wire": Key(
            str,
            "float32",
            "Type in which the streaming loss sends embeddings between devices; captions travel as float16.",
            choices=("float32", "bfloat16"),
        ),
    },
    "optimizer": {
        "name": Key(str, "adamw", "lars or adamw.", choices=("lars", "adamw")),
        "learning_rate": Key(float, 1e-3, "Base learning rate; the peak follows from lr_scaling.", above=0),
        "lr_scaling": Key(
            str,
            "none",
            "Peak rate: none (as is), linear (* batch_size / 256) or sqrt (* sqrt(batch_size)).",
            choices=("none", "linear", "sqrt"),
        ),
        "warmup": Key(float, 0.1, "Share of the steps with linear warm-up.", minimum=0, maximum=0.9),
        "schedule": Key(str, "cosine", "After warm-up: cosine to zero, or constant.", choices=("cosine", "constant")),
        "weight_decay": Key(
            float, 1e-4, "Weight decay; not applied to biases, scales and one-dimensional parameters.", minimum=0
        ),
        "momentum": Key(float, 0.9, "LARS momentum.", minimum=0, below=1),
        "b1": Key(float, 0.9, "AdamW first-moment decay.", minimum=0, below=1),
        "b2": Key(float, 0.95, "AdamW second-moment decay.", minimum=0, below=1),
        "clip_norm": Key(float, None, "Clip the global gradient norm. None: do not clip.", above=0, optional=True),
    },
    "precision": {
        "compute": Key(
            str,
            "float32",
            "Type of activations and matrix products of the encoder. Parameters, statistics and losses stay float32.",
            choices=("float32", "bfloat16"),
        ),
    },
    "mesh": {
        "data": Key(int, -1, "Devices along the data axis; -1: all that are left.", minimum=-1),
        "fsdp": Key(
            int, 1, "Devices along the fsdp axis: parameters and optimiser state are split over them.", minimum=1
        ),
        "topology": Key(
            str,
            None,
            "TPU slice this config is meant for, as v5e:4x4; --dry_run --topology compiles for it.",
            optional=True,
        ),
    },
    "checkpoint": {
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
    },
    "eval": {
        "suite": Key(
            str,
            "emoji",
            "Evaluation at the end and every eval.every steps: emoji, probe (kNN + ridge on labels) or none.",
            choices=("emoji", "probe", "none"),
        ),
        "split": Key(str, "test", "Split that is evaluated (emoji: val or test concepts)."),
        "train_split": Key(str, "train", "Split whose features train the probes."),
        "every": Key(int, None, "Steps between evaluations. None: only at the end.", minimum=1, optional=True),
        "batch_size": Key(int, 256, "Images per evaluation step over all devices.", minimum=1),
    },
    "log": {
        "every": Key(int, 10, "Steps between lines of metrics.jsonl and progress.", minimum=1),
    },
}


def flat_keys(section: dict = SCHEMA, prefix: str = "") -> dict[str, Key]:
    """Returns every key under its dotted name, as `{"optimizer.b1": Key(...)}`, in the order of the schema."""
    flat = {}
    for name, entry in section.items():
        flat |= flat_keys(entry, f"{prefix}{name}.") if isinstance(entry, dict) else {prefix + name: entry}
    return flat

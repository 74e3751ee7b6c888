"""One key of the config: type, default, meaning and bounds."""

import dataclasses
from typing import Any

from xsample_jax.graphs.sources import SOURCES
from xsample_jax.models.vit import LAYOUTS
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.objectives.side_information import provider_of
from xsample_jax.weights.families import FAMILIES


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


# Config keys of the records and of the views that are made of their images.


DATA = {
    "source": Key(
        str,
        "emoji",
        "emoji (embedded in the package), emoji_folder (a copy of it with other embeddings) or records (a prepared "
        "folder).",
        choices=("emoji", "emoji_folder", "records"),
    ),
    "path": Key(
        str,
        None,
        "Folder of the record set (manifest.json inside), here or gs://BUCKET/NAME; for records and emoji_folder.",
        optional=True,
    ),
    "split": Key(str, "train", "Split that is trained on."),
    "fingerprint": Key(
        str, None, "Refuse to open a set whose manifest has another fingerprint. None: do not check.", optional=True
    ),
    "mix": Key(
        tuple[dict, ...],
        (),
        "Other record sets to train on as well: {path: its folder, share: of the images drawn}. The rest of the draws "
        "are from data.path, which alone is evaluated on.",
    ),
    "balance": Key(
        float,
        0.0,
        "Rare classes more often: a class of n images is drawn n ** (1 - balance) times. 0: images alike; 0.5: square "
        "root; 1: classes alike.",
        minimum=0,
        maximum=1,
    ),
    "cache": Key(
        str,
        "none",
        "ram: read the records of a folder into the memory of every host first, for small sets on slow disks. decoded: "
        "keep every training picture in memory once it is decoded, for small sets on slow processors. disk: copy "
        "shards that are in a bucket to the disk of every host (docs/data.md). none: read them where they are.",
        choices=("none", "ram", "decoded", "disk"),
    ),
    "image_size": Key(int, 64, "Side in pixels of the uint8 images that the host delivers.", minimum=8, maximum=2**13),
    "fit": Key(
        str,
        "crop",
        "How an image that is not square becomes one, in training and evaluation: crop (its center) or pad (all of it, "
        "on gray; with alpha, on the background).",
        choices=("crop", "pad"),
    ),
    "caption": Key(
        str,
        "first",
        "Which caption (and embedding) of an image: first, random (another each time it is seen; first in evaluation), "
        "mean (embeddings only), or its index as text.",
        choices=("first", "random", "mean", "0", "1", "2", "3"),
    ),
    "hierarchy": Key(
        tuple[str, ...],
        ("group", "subgroup"),
        "Attributes of the records above the class in the class tree, root first, for the hierarchy graph.",
    ),
    "samples_per_class": Key(
        int,
        None,
        "Train on this many images of every class, drawn by the seed (fewer are part of more). None: on all.",
        minimum=1,
        optional=True,
    ),
    "fraction": Key(
        float,
        1.0,
        "Train on this share of the images of the split, drawn by the seed (fewer are part of more).",
        above=0,
        maximum=1,
    ),
    "label_noise": Key(
        float,
        0.0,
        "Share of the training images whose class is another one, drawn by the seed. Evaluation is not touched.",
        minimum=0,
        maximum=1,
    ),
    "caption_noise": Key(
        float,
        0.0,
        "Share of the training images that have the captions of another image, drawn by the seed.",
        minimum=0,
        maximum=1,
    ),
    "on_error": Key(
        str,
        "raise",
        "Broken record: raise, or skip (the next good record takes its place; counted and logged).",
        choices=("raise", "skip"),
    ),
    "threads": Key(int, 4, "Decoding threads of a host.", minimum=1, maximum=1024),
    "prefetch": Key(int, 4, "Batches decoded ahead of the device.", minimum=1, maximum=1024),
}

AUGMENT = {
    "size": Key(int, 32, "Side in pixels of the views that the encoder sees.", minimum=8, maximum=2**13),
    "crop_scale": Key(
        tuple[float, ...],
        (0.08, 1.0),
        "Random resized crop: area range as a share of the image; () = plain resize.",
        above=0,
        maximum=1,
        lengths=(0, 2),
        increasing=True,
    ),
    "local_size": Key(
        int, 16, "Side in pixels of small crops, for objectives that have them (swav).", minimum=8, maximum=2**13
    ),
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
    "jitter": Key(float, 0.8, "Probability of color jitter.", minimum=0, maximum=1),
    "jitter_strength": Key(
        tuple[float, ...],
        (0.4, 0.4, 0.4, 0.1),
        "Color jitter: brightness, contrast, saturation, hue ranges.",
        minimum=0,
        maximum=1,
        lengths=(4,),
    ),
    "gray": Key(float, 0.2, "Probability of grayscale.", minimum=0, maximum=1),
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
        "random_color",
        "Ground under images with alpha: random_color per view, white, or gray.",
        choices=("random_color", "white", "gray"),
    ),
    "mean": Key(tuple[float, ...], (0.485, 0.456, 0.406), "Per-channel mean taken off (0..1 scale).", lengths=(3,)),
    "std": Key(
        tuple[float, ...],
        (0.229, 0.224, 0.225),
        "Per-channel standard deviation divided by (0..1 scale).",
        above=0,
        lengths=(3,),
    ),
}


# Config keys of what happens when something goes wrong (docs/resume.md).


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
    "data_timeout": Key(
        float, 600.0, "Seconds that a batch may take before the run stops with all stacks.", above=0, maximum=1e7
    ),
    "grace": Key(
        float,
        25.0,
        "Seconds from SIGTERM to the end of the process, saved or not (clouds kill after 30).",
        above=0,
        maximum=1e6,
    ),
}


# Config keys of the encoder, its head and the text tower.


MODEL = {
    "encoder": Key(
        str,
        "resnet50",
        "Image encoder (models/towers.py).",
        choices=("resnet18", "resnet34", "resnet50", "vit_ti", "vit_s", "vit_b"),
    ),
    "width": Key(int, 64, "ResNet: channels of the first stage.", minimum=4, maximum=2**14),
    "stem": Key(
        str,
        "imagenet",
        "ResNet: imagenet (7x7 stride 2 + max-pool) or cifar (3x3 stride 1).",
        choices=("imagenet", "cifar"),
    ),
    "patch_size": Key(int, 16, "ViT: side of a patch in pixels.", minimum=1, maximum=2**13),
    "layout": Key(
        str,
        "plain",
        "ViT: plain (fixed positions, mean over patches), or as the weights of init_family need it: docs/weights.md.",
        choices=tuple(LAYOUTS),
    ),
    "init_from": Key(
        str,
        None,
        "File of pretrained weights that the encoder starts from: .safetensors, .npz, .pth, .pt or .bin. A checkpoint "
        "of this run wins. None: from scratch.",
        optional=True,
    ),
    "init_family": Key(
        str, None, "Whose names init_from has (docs/weights.md).", choices=tuple(FAMILIES), optional=True
    ),
    "conv_impl": Key(
        str,
        "auto",
        "conv (XLA convolution), dot (matrix products), auto (dot on CPU, else conv).",
        choices=("auto", "conv", "dot"),
    ),
    "remat": Key(
        str,
        "none",
        "What a block of an encoder or text tower keeps for the backward pass: none (all values), dots (results of "
        "convolutions and products with parameters), block (its input; about a third more work). docs/memory.md.",
        choices=("none", "dots", "block"),
    ),
    "head": {
        "hidden": Key(
            tuple[int, ...],
            (2048,),
            "Widths of the hidden layers of the projection head; () = linear.",
            minimum=1,
            maximum=2**16,
        ),
        "dim": Key(int, 128, "Width of the embedding that the loss sees.", minimum=2, maximum=2**16),
        "batch_norm": Key(bool, True, "Batch-normalize the hidden layers of the projection head."),
    },
    "text": {
        "layers": Key(
            int,
            0,
            "Transformer layers of the text tower; 0 = a linear map of the frozen caption embedding.",
            minimum=0,
            maximum=256,
        ),
        "width": Key(int, 256, "Width of the text tower.", minimum=8, maximum=2**14),
        "heads": Key(int, 4, "Attention heads of the text tower.", minimum=1, maximum=1024),
        "length": Key(int, 32, "Tokens per caption (cut or padded).", minimum=2, maximum=2**14),
    },
}


# Config keys of what is learned: the objective, and how its loss is computed.


PRESET_NAMES = tuple(PRESETS)
# Sources that some data or some objective can provide with what they read.
SOURCE_NAMES = tuple(
    name for name, slot in SOURCES.items() if all(provider_of(read) for read in slot.anchor_reads | slot.key_reads)
)

GENERATOR = {
    "kind": Key(
        str,
        None,
        "Who makes images for the encoder to learn from (xsample_jax/adversary.py): hard (a generator that raises the "
        "objective on its images), pair (two, whose images of one latent are views of one image and grow apart) or "
        "augmented (a control without a generator: images of the batch, augmented as a discriminator sees them). None: "
        "nobody.",
        choices=("hard", "pair", "augmented"),
        optional=True,
    ),
    "share": Key(
        float, 0.25, "Share of the images of a batch that are generated. 0: nobody makes any.", minimum=0, below=1
    ),
    "start": Key(
        float,
        0.2,
        "Share of the run after which generated images enter the batch; generator and discriminator are trained from "
        "the first step on.",
        minimum=0,
        below=1,
    ),
    "ramp": Key(
        float,
        0.3,
        "Share of the run, from start on, over which generator.weight is reached; 0: at once.",
        minimum=0,
        maximum=1,
    ),
    "weight": Key(
        float,
        0.1,
        "What making hard images (or pairs that differ) counts beside what the discriminator says, at the end.",
        minimum=0,
        maximum=1e4,
    ),
    "updates": Key(
        int, 1, "Updates of discriminator and generator in each step of the encoder.", minimum=1, maximum=16
    ),
    "rate": Key(
        float, 1e-3, "Learning rate of generator and discriminator (Adam, b1 = 0, b2 = 0.99).", above=0, maximum=1
    ),
    "latent": Key(int, 64, "Width of the latents.", minimum=2, maximum=2**12),
    "width": Key(int, 32, "Channels of the largest maps of both networks.", minimum=4, maximum=2**10),
    "sheet_every": Key(
        int,
        200,
        "Steps between contact sheets of generated images (generated/ in the run folder) and measures of their "
        "diversity.",
        minimum=1,
    ),
}

OBJECTIVE = {
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
    "temperature": Key(
        float, None, "tau of the student logits; None: the preset's.", above=0, maximum=1e4, optional=True
    ),
    "learn_temperature": Key(bool, None, "Learn tau (clamped to [0.01, 1]); None: the preset's choice.", optional=True),
    "target_temperature": Key(
        float, None, "tau_s of the target softmax; None: the preset's.", above=0, maximum=1e4, optional=True
    ),
    "target_neighbors": Key(
        float,
        None,
        "Choose tau_s on every batch so that a target row has this many effective neighbors, exp(entropy).",
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
    "queue": Key(
        int, None, "Rows of the queue of past keys; None: the preset's.", minimum=0, maximum=2**26, optional=True
    ),
    "prototypes": Key(int, None, "Learned prototypes; None: the preset's.", minimum=0, maximum=2**24, optional=True),
    "memory": Key(
        tuple[dict, ...],
        None,
        "Constants of what is kept per image: {'rho': 8.0} (objectives/learned_state.py); None: the preset's.",
        lengths=(1,),
        optional=True,
    ),
    "center": Key(bool, False, "Center the caption embeddings of the batch before their cosines."),
    "generator": GENERATOR,
}

LOSS = {
    "impl": Key(
        str,
        "auto",
        "dense (all pairs at once), streaming (tiles: memory linear in the batch) or auto (streaming where it can, if "
        "there are several devices or many rows).",
        choices=("auto", "dense", "streaming"),
    ),
    "block_size": Key(int, 1024, "Rows of a tile of the streaming loss.", minimum=8, maximum=2**20),
    "kernel": Key(
        str,
        "auto",
        "Who computes the tiles: xla, pallas (kernels for TPU, for the graph of captions in X-CLR only; refused where "
        "it cannot) or auto (pallas on TPU where it can). A graph of class texts has a table instead of tiles.",
        choices=("auto", "pallas", "xla"),
    ),
    "grad_cache": Key(
        int,
        1,
        "Parts in which the batch goes through the image encoder (GradCache): less memory, one more forward pass.",
        minimum=1,
    ),
    "collective": Key(
        str,
        "auto",
        "How the streaming loss shows devices each other's rows: gather (all at once), ring (one by one: memory "
        "falls with their number, twice the bytes travel) or auto (ring above 512 MiB).",
        choices=("auto", "gather", "ring"),
    ),
    "comm_dtype": Key(
        str,
        "float32",
        "Type in which the streaming loss sends embeddings between devices.",
        choices=("float32", "bfloat16"),
    ),
    "caption_comm_dtype": Key(
        str,
        "float16",
        "Type in which the streaming loss sends frozen caption and class embeddings; int8 keeps 7 bits of each entry.",
        choices=("float16", "int8"),
    ),
}


# Config keys of what a run keeps and shows: checkpoints, evaluation, log.


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
    "batch_size": Key(int, 256, "Images per evaluation step over all devices.", minimum=1, maximum=2**20),
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


# Config keys of the update: optimizer, number types, devices.


OPTIMIZER = {
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
        float,
        1e-4,
        "Weight decay; not applied to biases, scales and one-dimensional parameters.",
        minimum=0,
        maximum=1e6,
    ),
    "momentum": Key(float, 0.9, "LARS momentum.", minimum=0, below=1),
    "b1": Key(float, 0.9, "AdamW first-moment decay.", minimum=0, below=1),
    "b2": Key(float, 0.95, "AdamW second-moment decay.", minimum=0, below=1),
    "clip_norm": Key(float, None, "Clip the global gradient norm. None: do not clip.", above=0, optional=True),
    "ema": Key(
        float,
        None,
        "Decay of a moving average of parameters and running statistics, which is what evaluations then look at "
        "(0.9999 for long runs). None: no average.",
        above=0,
        below=1,
        optional=True,
    ),
}

PRECISION = {
    "params": Key(
        str,
        "float32",
        "Type in which parameters of the model are kept. bfloat16: updates are taken in float32 and rounded at random, "
        "without bias.",
        choices=("float32", "bfloat16"),
    ),
    "compute": Key(
        str,
        "float32",
        "Type of activations and matrix products of the model. Logits, losses and running statistics stay float32.",
        choices=("float32", "bfloat16"),
    ),
    "moments": Key(
        str,
        "float32",
        "Type in which the optimizer keeps momentum or first moments. Second moments stay float32.",
        choices=("float32", "bfloat16"),
    ),
}

MESH = {
    "data": Key(int, -1, "Devices along the data axis; -1: all that are left.", minimum=-1),
    "fsdp": Key(int, 1, "Devices along the fsdp axis: parameters and optimizer state are split over them.", minimum=1),
    "tensor": Key(
        int,
        1,
        "Devices along the tensor axis, over which mesh.rules can split parameters (docs/sharding.md).",
        minimum=1,
    ),
    "rules": Key(
        tuple[dict, ...],
        ({"parameters": ".*", "split": "largest"},),
        "Where parameters lie: the first rule whose regex is found in a path (xsample_jax/sharding.py).",
    ),
    "memory_limit": Key(
        float,
        None,
        "GiB of a device that a step may take: --dry_run refuses more.",
        above=0,
        maximum=1e6,
        optional=True,
    ),
    "topology": Key(
        str,
        None,
        "TPU slice this config is for, as v5e:4x4 (2xv5e:4x4: two of them); --dry_run --topology compiles for it.",
        optional=True,
    ),
}


# The manual: every config key with its type, default and meaning. A config is this tree with some values changed.


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

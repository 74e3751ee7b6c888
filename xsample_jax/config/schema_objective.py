"""Config keys of the objective, and how its loss is computed."""

from xsample_jax.config.key import Key
from xsample_jax.graphs.sources import SOURCES
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.objectives.side_information import provider_of

# Sources that some data or some objective can provide with what they read.
SOURCE_NAMES = tuple(
    name for name, slot in SOURCES.items() if all(provider_of(read) for read in slot.anchor_reads | slot.key_reads)
)

GENERATOR = {
    "kind": Key(
        str,
        None,
        "Who makes images for the encoder to learn from (objectives/adversary.py): hard (a generator that raises the "
        "objective on its images), pair (two, whose images of one latent are views of one image and grow apart) or "
        "augmented (a control without a generator: images of the batch, augmented as a discriminator sees them). None: "
        "nobody.",
        choices=("hard", "pair", "augmented"),
        optional=True,
    ),
    "share": Key(
        float, 0.25, "Share of the images of a batch that are generated. 0: none are made.", minimum=0, below=1
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

CLUSTERS = {
    "k": Key(
        tuple[int, ...],
        (),
        "Clusters of each clustering of a bank of all images' embeddings, by k-means during the run, for presets that "
        "read clusters; (): the clusters are those of data.side.",
        minimum=2,
        maximum=2**20,
    ),
    "every": Key(int, None, "Steps between two renewals; None: those of an epoch.", minimum=1, optional=True),
    "start": Key(
        int,
        None,
        "Step of the first clustering, before which every image is a cluster of its own; None: those of an epoch.",
        minimum=1,
        optional=True,
    ),
    "iterations": Key(int, 20, "Iterations of k-means.", minimum=1, maximum=1000),
    "by_class": Key(
        bool,
        False,
        "Clusters are subclasses, k of all classes together at most, and every class has a temperature by its spread "
        "(sbcl); before the first clustering every class is one subclass.",
    ),
}

BANK = {
    "keys": Key(
        int,
        None,
        "Rows of the bank that are drawn at every step as keys, beside those of the batch, for presets that compare "
        "with them; 0: all; None: the preset's.",
        minimum=0,
        maximum=2**26,
        optional=True,
    ),
    "momentum": Key(
        float,
        None,
        "Share of the old row of an image in its new one; None: the preset's, or 0 (replaced).",
        minimum=0,
        below=1,
        optional=True,
    ),
    "dtype": Key(
        str,
        None,
        "Type of the rows; None: the preset's, or float32. bfloat16 halves them, with a momentum of at most 0.9.",
        choices=("float32", "bfloat16"),
        optional=True,
    ),
}

OBJECTIVE = {
    "preset": Key(str, "xclr", "Named objective (docs/objectives.md).", choices=PRESETS),
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
    "teacher_end": Key(
        float,
        None,
        "Momentum of the EMA encoder at the end of the run, to which objective.teacher moves by half a cosine; None: "
        "the preset's (1 in byol, moco_v3 and pixpro, elsewhere that of the start).",
        minimum=0,
        maximum=1,
        optional=True,
    ),
    "frozen": Key(
        str,
        None,
        "Folder of a finished run (or RUN/checkpoints/STEP) whose encoder is the frozen teacher, with its head and "
        "text side for distill_clip (docs/rows.md); its weights become part of the checkpoints. None: none.",
        optional=True,
    ),
    "queue": Key(
        int, None, "Rows of the queue of past keys; None: the preset's.", minimum=0, maximum=2**26, optional=True
    ),
    "prototypes": Key(int, None, "Learned prototypes; None: the preset's.", minimum=0, maximum=2**24, optional=True),
    "past": Key(
        int,
        None,
        "Visits after which an image is compared with what it was, for the graph past (saf); that many rows of every "
        "image, and one, are kept. None: the preset's.",
        minimum=0,
        maximum=64,
        optional=True,
    ),
    "memory": Key(
        tuple[dict, ...],
        None,
        "Constants of the per-image memory: {'rho': 8.0} (objectives/learned_state.py); None: the preset's.",
        lengths=(1,),
        optional=True,
    ),
    "widths": Key(
        tuple[int, ...],
        (),
        "Matryoshka: the loss is summed over these prefixes of the embedding, from the largest down; (): all of it.",
        minimum=2,
        maximum=2**16,
    ),
    "width_weights": Key(
        tuple[float, ...], None, "Weights of objective.widths; None: 1 each.", minimum=0, maximum=1e4, optional=True
    ),
    "center": Key(bool, False, "Center the caption embeddings of the batch before their cosines."),
    "clusters": CLUSTERS,
    "bank": BANK,
    "generator": GENERATOR,
}

LOSS = {
    "impl": Key(
        str,
        "auto",
        "dense (all pairs at once), streaming (tiles: memory linear in the batch) or auto (streaming where it can).",
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
    "groups": Key(
        int,
        1,
        "Groups of neighboring devices within which rows are compared (M2-Encoder): the rows that travel and are held "
        "fall with their number, and so do the negatives. For losses that can be streamed.",
        minimum=1,
        maximum=2**16,
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

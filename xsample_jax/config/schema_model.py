"""Config keys of the model and of its training: optimizer, number types, devices, and what happens on errors."""

from xsample_jax.config.key import Key
from xsample_jax.models.towers import ENCODERS
from xsample_jax.models.vit import LAYOUTS
from xsample_jax.optim import OPTIMIZERS, SCHEDULES
from xsample_jax.weights.families import FAMILIES

MODEL = {
    "encoder": Key(
        str,
        "resnet50",
        "Image encoder (models/towers.py).",
        choices=ENCODERS,
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
        choices=LAYOUTS,
    ),
    "patch_dropout": Key(
        float,
        0.0,
        "ViT: share of the patches of every view that training leaves out (FLIP); evaluation reads all.",
        minimum=0,
        maximum=0.95,
    ),
    "drop_path": Key(
        float,
        0.0,
        "ConvNeXt: share of the rows that leave out the last block in training (stochastic depth); it rises evenly "
        "from 0 at the first block. Evaluation runs all.",
        minimum=0,
        maximum=0.95,
    ),
    "lora": Key(
        int,
        0,
        "ViT: rank of the factors that are trained beside the frozen maps of the blocks (LoRA); optimizer.rules "
        "freezes the encoder (docs/weights.md). 0: none.",
        minimum=0,
        maximum=1024,
    ),
    "init_from": Key(
        str,
        None,
        "What the encoder starts from: hf:ORGANIZATION/NAME or a folder with such weights of timm or open_clip; a run "
        "folder or RUN/checkpoints/STEP of ours; or, with init_family, a file (.safetensors, .npz, .pth, .pt or "
        ".bin). A checkpoint of this run wins. None: from scratch.",
        optional=True,
        start=True,
    ),
    "init_whole": Key(
        bool,
        False,
        "From the run of init_from also take head, text side and what its objective has learned (classes, prototypes, "
        "temperature), all of which it must have; else the encoder only.",
        start=True,
    ),
    "init_family": Key(
        str, None, "Whose names the file init_from has (docs/weights.md).", choices=FAMILIES, optional=True, start=True
    ),
    "slim": Key(
        float,
        0.5,
        "ResNet: share of its channels that the thin network of an objective has (sacl_xd); others do not read it.",
        above=0,
        maximum=1,
    ),
    "style_noise": {
        "kind": Key(
            str,
            None,
            "ResNet: noise on mean and standard deviation of every channel of an image, in training: dsu (as large as "
            "they differ within the batch) or adversarial (AdvStyle: as large as is learned against the loss, and dsu "
            "in turns). None: none.",
            choices=("adversarial", "dsu"),
            optional=True,
        ),
        "stages": Key(
            tuple[int, ...], (1, 2, 3), "Stages after which there is noise; 0: the stem.", minimum=0, maximum=4
        ),
        "updates": Key(int, 3, "adversarial: updates of the noise before each step.", minimum=1, maximum=16),
        "rate": Key(
            float, 1e-3, "adversarial: learning rate of the noise (Adam, b1 = 0, b2 = 0.99).", above=0, maximum=1
        ),
    },
    "conv_impl": Key(
        str,
        "auto",
        "conv (XLA convolution), dot (matrix products), auto (dot on the CPUs of a mesh, else conv).",
        choices=("auto", "conv", "dot"),
    ),
    "attention": Key(
        str,
        "auto",
        "Self-attention of a ViT in training: xla (products; keeps the weights), or auto (on TPUs in bfloat16 a Pallas "
        "kernel that keeps none, else xla).",
        choices=("auto", "xla"),
    ),
    "remat": Key(
        str,
        "none",
        "What a block of an encoder or text tower keeps for the backward pass: none (all values), dots (results of "
        "convolutions and products with parameters), block (its input; about a third more work). docs/scaling.md.",
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
        "kappa": Key(
            float,
            None,
            "A fixed head in place of the projection head: feature d times kappa**-d (1 = no head); model.head.dim is "
            "then the width of the features, and hidden and batch_norm are those of a predictor. None: projection.",
            minimum=1,
            maximum=1e4,
            optional=True,
        ),
    },
    "decoder_width": Key(
        int,
        32,
        "Channels of the largest map of the decoder of images (presets a_mim and cmim).",
        minimum=4,
        maximum=2**12,
    ),
    "text": {
        "layers": Key(
            int,
            0,
            "Transformer layers of the text tower; 0 = a linear map of the frozen caption embedding.",
            minimum=0,
            maximum=256,
        ),
        "multimodal": Key(
            int,
            0,
            "Further layers that also attend to the image and predict captions; for presets with a decoder (coca).",
            minimum=0,
            maximum=256,
        ),
        "queries": Key(
            int, 64, "Learned queries that collect what captions read of an image.", minimum=1, maximum=2**14
        ),
        "width": Key(int, 256, "Width of the text tower.", minimum=8, maximum=2**14),
        "heads": Key(int, 4, "Attention heads of the text tower.", minimum=1, maximum=1024),
        "causal": Key(
            bool,
            False,
            "No token of a caption sees a later one, as in CLIP: what open_clip can load (docs/weights.md).",
        ),
        "length": Key(int, 32, "Tokens per caption (cut or padded).", minimum=2, maximum=2**14),
    },
}


OPTIMIZER = {
    "name": Key(str, "adamw", "The update rule (docs/training.md).", choices=OPTIMIZERS),
    "learning_rate": Key(float, 1e-3, "Base learning rate; the peak follows from lr_scaling.", above=0),
    "lr_scaling": Key(
        str,
        "none",
        "Peak rate: none (as is), linear (* batch_size / 256) or sqrt (* sqrt(batch_size)).",
        choices=("none", "linear", "sqrt"),
    ),
    "warmup": Key(float, 0.1, "Share of the steps with linear warm-up.", minimum=0, maximum=0.9),
    "schedule": Key(
        str,
        "cosine",
        "After warm-up: cosine or linear to final_rate, constant, rsqrt (1 / sqrt of the step) or wsd (constant); the "
        "last two with a cooldown.",
        choices=SCHEDULES,
    ),
    "final_rate": Key(
        float, 0.0, "Rate after the last step, as a share of the peak; not of constant.", minimum=0, maximum=1
    ),
    "cooldown": Key(
        float, 0.2, "rsqrt and wsd: share of the steps that end the run on a line to final_rate.", minimum=0, maximum=1
    ),
    "weight_decay": Key(
        float,
        1e-4,
        "Weight decay; not applied to biases, scales and one-dimensional parameters.",
        minimum=0,
        maximum=1e6,
    ),
    "final_weight_decay": Key(
        float,
        None,
        "Weight decay after the last step, reached by half a cosine. None: weight_decay throughout.",
        minimum=0,
        maximum=1e6,
        optional=True,
    ),
    "rules": Key(
        tuple[dict, ...],
        (),
        "What is frozen, or has a rate or weight decay of its own: the first rule whose regex is found in the path of "
        "a parameter (docs/training.md).",
    ),
    "layer_decay": Key(
        float,
        1.0,
        "Factor of the rate from one block of the encoder to the one before it; 1: all alike.",
        above=0,
        maximum=1,
    ),
    "sam": Key(
        float,
        0.0,
        "Sharpness-aware minimization with any of them: the gradient is that at parameters which are this far up the "
        "first gradient, in norm (0.05 in the paper). Twice the work. 0: off.",
        minimum=0,
        maximum=1e3,
    ),
    "momentum": Key(float, 0.9, "Momentum of sgd, lars and muon.", minimum=0, below=1),
    "b1": Key(float, 0.9, "Decay of first moments, of all others; what schedule-free mixes by.", minimum=0, below=1),
    "b2": Key(float, 0.95, "Decay of second moments; of lion, of its momentum. Not of adafactor.", minimum=0, below=1),
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
        "Devices along the tensor axis, over which mesh.rules can split parameters (docs/scaling.md).",
        minimum=1,
    ),
    "rules": Key(
        tuple[dict, ...],
        ({"parameters": ".*", "split": "largest"},),
        "How parameters are split: the first rule whose regex is found in a path (xsample_jax/sharding.py).",
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
        "TPU slice or GPUs that this config is for, as v5e:4x4 (2xv5e:4x4: two of them) or h100x8; --dry_run "
        "--topology compiles for it.",
        optional=True,
    ),
}


# What happens when something goes wrong (docs/training.md).
FAULTS = {
    "non_finite": Key(
        str,
        "stop",
        "Loss, gradient or parameters not finite: stop (with a dump), skip (the update), or rollback (to the last "
        "checkpoint, continuing with later data).",
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

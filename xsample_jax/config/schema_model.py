"""Config keys of the encoder, its head and the text tower."""

from xsample_jax.config.key import Key
from xsample_jax.models.towers import ENCODERS
from xsample_jax.models.vit import LAYOUTS
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
    ),
    "init_whole": Key(
        bool,
        False,
        "From the run of init_from also take head, text side and what its objective has learned (classes, prototypes, "
        "temperature), all of which it must have; else the encoder only.",
    ),
    "init_family": Key(
        str, None, "Whose names the file init_from has (docs/weights.md).", choices=FAMILIES, optional=True
    ),
    "conv_impl": Key(
        str,
        "auto",
        "conv (XLA convolution), dot (matrix products), auto (dot on the CPUs of a mesh, else conv).",
        choices=("auto", "conv", "dot"),
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

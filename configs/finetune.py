"""Published weights on ImageNet, fine-tuned with X-CLR for a few epochs (arXiv 2407.18134).

Command:   python -m xsample_jax.main --config=configs/finetune.py --workdir=runs/imagenet/finetune \\
               --config.data.path=FOLDER --config.model.init_from=resnet50.safetensors
           python -m xsample_jax.main --config=configs/finetune.py:dinov2,lora --workdir=runs/imagenet/dinov2 \\
               --config.data.path=FOLDER
Variants:  weights :resnet50 (the default; a file of torchvision's or timm's, supervised or self-supervised),
           :dinov2 (ViT-S/14 of timm, by name from the hub), :clip (ViT-B/16 of open_clip, by name from the hub);
           what is trained :lora (factors of rank 8 beside the frozen ViT; else all of it);
           :labels_1 or :labels_10 (in place of X-CLR a classifier, on 1 % or 10 % of the images, evaluated by the
           classes that it learned); one of each, as ":dinov2,lora" or ":resnet50,labels_10";
           :smoke, also as ":labels_1,smoke" (embedded emoji, 5 small steps, from scratch: no weights are shipped)
Hardware:  TPU v5e-16 (4x4); 8 GPUs will do.
Hours:     not measured
Expected:  not measured. The paper calls the gain of a short fine-tuning worth its small cost; its epochs, rates and
           table could not be read.

[default] throughout: the recipe of imagenet.py, ten epochs; a tenth of its rate for the ResNet, AdamW with rates that
fall from layer to layer for the ViTs. The head is new; a checkpoint of the run itself wins over init_from, so the same
command resumes. A run of one's own: docs/weights.md, "Fine-tune what you have".

The few labels follow the semi-supervised protocol of SimCLR (arXiv 2002.05709, appendix B.5) as remembered, not as
read: SGD with momentum, rate 0.05 for 256 images, crops and flips alone, no weight decay or warmup, 60 epochs of 1 %
and 30 of 10 %. What differs: images are drawn by the seed, not alike from each class, the momentum is not Nesterov's,
and the classifier compares unit rows (tau 0.1) after a new linear map.
"""

import pathlib

from xsample_jax.config import parse_variant_groups, read_config_file, smoke

IMAGENET = pathlib.Path(__file__).parent / "imagenet.py"
WEIGHTS = ("resnet50", "dinov2", "clip")
VITS = {
    "dinov2": ("hf:timm/vit_small_patch14_dinov2.lvd142m", "vit_s", "dinov2", 14),
    "clip": ("hf:laion/CLIP-ViT-B-16-laion2B-s34B-b88K", "vit_b", "open_clip", 16),
}
LABELS = {"labels_1": (0.01, 60), "labels_10": (0.1, 30)}  # share of the images, epochs
CLIP_COLORS = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}


def get_config(arg=""):
    (weights, lora, labels), small = parse_variant_groups(arg, (WEIGHTS, ("lora",), tuple(LABELS)))
    weights = weights or ("dinov2" if lora else "resnet50")
    config = read_config_file(IMAGENET)
    words = [name for name in (weights, lora, labels) if name not in (None, "resnet50")]
    config.name = "_".join(["imagenet_finetune", *words])
    config.epochs = 10
    config.optimizer.warmup = 0.05
    if weights == "resnet50":
        config.model.init_from = "weights/resnet50.safetensors"
        config.model.init_family = "resnet"
        config.optimizer.learning_rate = 0.0075
    else:
        path, encoder, layout, patch = VITS[weights]
        config.model.update(init_from=path, encoder=encoder, layout=layout, patch_size=patch)
        config.optimizer.update(name="adamw", lr_scaling="none", learning_rate=1e-4, weight_decay=0.05)
        config.optimizer.layer_decay = 1.0 if lora else 0.75
    if lora:
        config.model.lora = 8
        config.optimizer.rules = ({"parameters": "^encoder/(?!.*/lora/)", "freeze": True},)
        config.optimizer.learning_rate = 1e-3
    if weights == "clip":
        config.augment.update(CLIP_COLORS)
    if labels:
        few_labels(config, *LABELS[labels], keep_optimizer=weights != "resnet50")
    if small and labels:  # the test images of the embedded set are of classes that it does not train on, but of groups
        config = smoke(config).unlock()
        config.data.update(label="group", fraction=0.1)
        config.eval.suite = "classifier"
        return config
    return smoke(config) if small else config


def few_labels(config, share: float, epochs: int, keep_optimizer: bool) -> None:
    """Turns a config into a classifier of all classes that is trained on a share of the images."""
    config.objective.update(preset="classifier", graph=None, temperature=None, target_temperature=None)
    config.views = 1
    config.epochs = epochs
    config.data.fraction = share
    config.augment.auto_augment = False
    config.model.head.update(hidden=(), dim=1024)
    config.eval.update(suite="classifier", online_probe=False, baselines=())
    if not keep_optimizer:
        config.optimizer.update(name="sgd", learning_rate=0.05, lr_scaling="linear", momentum=0.9)
        config.optimizer.update(weight_decay=0.0, warmup=0.0)

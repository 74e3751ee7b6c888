"""What every config file and variant changes of the defaults, as JSON. `make goldens` writes it."""

import json
import pathlib

from xsample_jax.config import default_config, diff_configs, load_config

ROOT = pathlib.Path(__file__).parent.parent.parent
FILE = pathlib.Path(__file__).parent / "goldens.json"

VARIANTS = {
    "quickstart": ("", "simclr", "supcon", "clip_frozen_text"),
    "imagenet": ("",),
    "cc3m": ("",),
    "cc12m": ("",),
    "icons": (
        "",
        "simclr",
        "supcon",
        "clip",
        "clip_frozen_text",
        "siglip",
        "cwcl",
        "xclr_and_clip",
        "xclr_random",
        "held_out",
    ),
    "cifar10": ("", "xclr", "supcon"),
    "cifar100": ("",),
    "finetune": ("", "dinov2", "clip", "dinov2,lora", "labels_1", "labels_10"),
    "vectors": ("", "simclr"),
    "shapes": (
        "",
        "simclr",
        "supcon",
        "clip_frozen_text",
        "y_aware",
        "multi_label",
        "object",
        "shape",
        "ground",
        "erase_color",
    ),
    "unlearn": ("", "original", "retrained"),
    "episodes": ("", "prototypical", "simclr"),
    "continual": ("", "coconut_ntpt", "rehearsal", "finetuning"),
    "recipes/adainf": ("", "real", "strong"),
    "suppression": (
        "",
        "digits",
        "sizes",
        "supcon",
        "clip_frozen_text",
        "xclr",
        "generalized_lse",
        "generalized_swd_sphere",
        "generalized_swd_cube",
        "generalized_swd_normal",
    ),
    "baselines/simclr": ("", "cc3m", "cc12m"),
    "baselines/supcon": ("",),
    "baselines/clip": ("", "cc3m"),
    "baselines/clip_frozen_text": ("", "cc3m"),
}
SPECS = [f"{name}.py" + (f":{variant}" if variant else "") for name, found in VARIANTS.items() for variant in found]


def read_spec(spec: str):
    """The resolved config of "quickstart.py:simclr"."""
    return load_config(str(ROOT / "configs" / spec))


def changed_values(spec: str) -> dict:
    """{dotted key: value} of a config where it differs from the defaults; tuples are lists, as JSON has them."""
    differences = diff_configs(default_config(), read_spec(spec))
    return json.loads(json.dumps({key: value for key, (_, value) in sorted(differences.items())}))


if __name__ == "__main__":
    lines = {spec: [f"    {json.dumps(k)}: {json.dumps(v)}" for k, v in changed_values(spec).items()] for spec in SPECS}
    blocks = [f"  {json.dumps(spec)}: {{\n" + ",\n".join(found) + "\n  }" for spec, found in lines.items()]
    FILE.write_text("{\n" + ",\n".join(blocks) + "\n}\n")

"""The resolved form of every config file and variant, as JSON. `make goldens` writes them; git shows what changed."""

import pathlib

from xsample_jax.config import config_to_json, load_config

ROOT = pathlib.Path(__file__).parent.parent.parent
FOLDER = pathlib.Path(__file__).parent / "golden"

VARIANTS = {
    "quickstart": ("", "simclr", "supcon", "clip_frozen_text"),
    "imagenet": ("",),
    "cc3m": ("",),
    "cc12m": ("",),
    "icons": ("",),
    "finetune": ("",),
    "shapes": ("", "simclr", "supcon", "clip_frozen_text", "object", "shape", "ground", "erase_color"),
    "baselines/simclr": ("", "cc3m", "cc12m"),
    "baselines/supcon": ("",),
    "baselines/clip": ("", "cc3m"),
    "baselines/clip_frozen_text": ("", "cc3m"),
}


def golden_files() -> dict[str, pathlib.Path]:
    """Returns {`configs/name.py:variant`: its golden file} for every variant, with and without smoke."""
    files = {}
    for name, variants in VARIANTS.items():
        for variant in variants:
            for words in ([variant], [variant, "smoke"]):
                argument = ",".join(word for word in words if word)
                spec = str(ROOT / "configs" / f"{name}.py") + (f":{argument}" if argument else "")
                stem = "-".join([*name.split("/"), *argument.split(",")]).strip("-")
                files[spec] = FOLDER / f"{stem}.json"
    return files


if __name__ == "__main__":
    for old in FOLDER.glob("*.json"):
        old.unlink()
    FOLDER.mkdir(exist_ok=True)
    for spec, path in golden_files().items():
        path.write_text(config_to_json(load_config(spec)))

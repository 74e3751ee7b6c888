"""X-CLR and its baselines on the icons set: 315,773 real icons of 183 drawing styles, each with its name as a caption.

Command:   python -m xsample_jax.main --config=configs/icons.py --workdir=runs/icons/xclr
               (make data/icons first: docs/notes/icons.md)
Variants:  :xclr (the default), :simclr, :supcon (class = the same name), :clip, :clip_frozen_text, :siglip, :cwcl,
           :xclr_and_clip (X-CLR beside CLIP with frozen text, half each), :xclr_random (the control);
           :held_out, also as ":held_out,simclr" (without drawings of emoji, to be tested on the emoji set);
           :smoke (embedded emoji, 5 small steps, seconds)
Hardware:  one GPU or TPU chip; a few CPU cores for short runs.
Hours:     --config.epochs=3 (1,815 steps) took 0.44 on two CPU cores; 10 epochs not measured
Expected:  after 3 epochs KL 1.2 nats, and on split val of the emoji set 27.2 % subgroup kNN and 57.1 % R@1 (one run;
           drawings of emoji are among the icons: docs/notes/icons.md); :held_out in docs/notes/evidence.md

The recipe of quickstart.py, which was chosen on drawings of the same size.
"""

import pathlib

from xsample_jax.config import parse_variant_groups, read_config_file, smoke

QUICKSTART = pathlib.Path(__file__).parent / "quickstart.py"
PRESETS = {
    "xclr": "xclr", "simclr": "simclr", "supcon": "supcon", "clip": "clip", "clip_frozen_text": "clip_frozen_text",
    "siglip": "siglip", "cwcl": "cwcl", "xclr_and_clip": "clip_frozen_text", "xclr_random": "xclr_random",
}  # fmt: skip
XCLR_AND_CLIP = (
    {"graph": {"source": "caption", "normalizer": "softmax"}, "temperature": 0.1, "weight": 0.5},
    {"anchors": "image", "keys": "text", "each_view": True, "weight": 0.25},
    {"anchors": "text", "keys": "image", "each_view": True, "weight": 0.25},
)


def get_config(arg=""):
    (objective, held_out), small = parse_variant_groups(arg, (tuple(PRESETS), ("held_out",)))
    objective = objective or "xclr"
    config = read_config_file(QUICKSTART)
    config.name = f"icons_{objective}"
    config.objective.preset = PRESETS[objective]
    if objective == "xclr_and_clip":
        config.objective.terms = XCLR_AND_CLIP
    if objective == "clip":
        config.model.text.update(layers=2, width=64)  # about as many products as this small image encoder
    config.data.source = "records"
    config.data.path = "data/icons_held_out" if held_out else "data/icons"
    config.data.cache = "decoded"  # 2.9 GB
    config.batch_size = 512  # [default]
    # [default] about 3.1 M images seen; held out 1 M, as in configs/studies/evidence.py
    config.steps, config.epochs = (2000, None) if held_out else (None, 10)
    config.eval.suite = "none"  # no classes in this set; tools.evaluate probes the checkpoints on other sets
    config.checkpoint.update(every=1000, metric=None)
    return smoke(config) if small else config

# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # 4. Wrong labels, wrong captions
#
# What each objective is told, made wrong for a share of the training images: `data.label_noise` gives another class,
# `data.caption_noise` the caption of another image. SimCLR is told nothing, and is the line that noise must not fall
# below. With seeds: `configs/ablations/label_noise.py`, `caption_noise.py`.

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt

import xsample_jax
from xsample_jax.evals.metrics import bootstrap, load_examples

QUICK = bool(os.environ.get("NOTEBOOK_QUICK"))  # small settings, for the tests
ROOT = next(folder for folder in [Path.cwd(), *Path.cwd().parents] if (folder / "configs").is_dir())
RUNS = Path(os.environ.get("NOTEBOOK_RUNS", ROOT / "runs" / "notebooks"))
TOLD = {"supcon": "label_noise", "xclr": "caption_noise", "clip_frozen_text": "caption_noise"}
OBJECTIVES = ("supcon",) if QUICK else tuple(TOLD)
SHARES = (0.5,) if QUICK else (0.0, 0.3, 0.6)
VARIANT = ",smoke" if QUICK else ""
CHANGES = ["eval.suite=emoji", "eval.train_split=val", "steps=2"] if QUICK else ["steps=200"]
METRIC = "subgroup/knn"


def trained(objective, name, *changes):
    """The interval of a metric after training with these changes."""
    config = xsample_jax.load_config(f"{ROOT}/configs/quickstart.py:{objective}{VARIANT}", [*CHANGES, *changes])
    folder = RUNS / "noise" / name
    xsample_jax.train(config, folder)
    return bootstrap([load_examples(folder / "evaluation.npz")[METRIC]])


# %%
scores = {}
for objective in OBJECTIVES:
    for share in SHARES:
        noise = f"data.{TOLD[objective]}={share}"
        scores[objective, share] = trained(objective, f"{objective}-{share}", noise)
        print(objective, noise, f"{scores[objective, share].mean:.1%}")
untold = trained("simclr", "simclr")

# %%
figure = plt.figure(figsize=(5, 3), layout="constrained")
axes = figure.subplots()
for place, objective in enumerate(OBJECTIVES):
    found = [scores[objective, share] for share in SHARES]
    x = [100 * share + place for share in SHARES]
    axes.plot(x, [100 * one.mean for one in found], "o-", color=f"C{place}", label=objective)
    axes.vlines(x, [100 * one.low for one in found], [100 * one.high for one in found], color=f"C{place}")
axes.axhspan(100 * untold.low, 100 * untold.high, color="gray", alpha=0.2, linewidth=0)
axes.axhline(100 * untold.mean, color="gray", linestyle=":", label="simclr, told nothing")
axes.set(xlabel="wrong, % of the training images", ylabel=f"{METRIC}, %")
axes.legend(fontsize=8)

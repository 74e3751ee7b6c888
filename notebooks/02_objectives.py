# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # 2. X-CLR, SimCLR, SupCon and CLIP on emoji
#
# The same encoder, data, augmentation and steps; only the objective differs, which is one line of the config. Two
# minutes a run on two CPU cores; a run that is there already is not trained again.

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt

import xsample_jax
from xsample_jax.evals.catalog import describe
from xsample_jax.evals.metrics import bootstrap, load_examples, paired_difference
from xsample_jax.reports.report import write_report

QUICK = bool(os.environ.get("NOTEBOOK_QUICK"))  # small settings, for the tests
ROOT = next(folder for folder in [Path.cwd(), *Path.cwd().parents] if (folder / "configs").is_dir())
RUNS = Path(os.environ.get("NOTEBOOK_RUNS", ROOT / "runs" / "notebooks"))
OBJECTIVES = ("xclr", "simclr") if QUICK else ("xclr", "simclr", "supcon", "clip_frozen_text")
VARIANT = ",smoke" if QUICK else ""
CHANGES = ["eval.suite=emoji", "eval.train_split=val", "steps=2"] if QUICK else []

# %% [markdown]
# ## Train

# %%
folders = {}
for objective in OBJECTIVES:
    config = xsample_jax.load_config(f"{ROOT}/configs/quickstart.py:{objective}{VARIANT}", CHANGES)
    folders[objective] = RUNS / "objectives" / objective
    metrics = xsample_jax.train(config, folders[objective])
    print(f"{objective}: subgroup kNN {metrics['subgroup/knn']:.1%}")

# %% [markdown]
# ## Compare
#
# Every number is on concepts that no run has seen. Drawings of one concept succeed and fail together, so the intervals
# resample concepts, not images.

# %%
examples = {objective: load_examples(folder / "evaluation.npz") for objective, folder in folders.items()}
shown = ("subgroup/knn", "subgroup/probe", "few_shot/5/subgroup", "retrieval/twemoji_to_noto")
figure = plt.figure(figsize=(8, 3), layout="constrained")
axes = figure.subplots()
for place, objective in enumerate(OBJECTIVES):
    for row, name in enumerate(shown):
        interval = bootstrap([examples[objective][name]])
        y = row + 0.15 * (place - (len(OBJECTIVES) - 1) / 2)
        axes.plot([interval.low, interval.high], [y, y], color=f"C{place}")
        axes.plot(interval.mean, y, "o", color=f"C{place}", label=objective if row == 0 else None)
axes.set_yticks(range(len(shown)), [describe(name).title for name in shown])
axes.invert_yaxis()
axes.legend(fontsize=8)

# %% [markdown]
# Overlapping intervals do not say that two objectives are equal: the same concepts are hard for both. The paired
# difference takes that out. One seed each: how much seeds differ is not in it (`make results` trains several).

# %%
for objective in OBJECTIVES:
    if objective == "simclr":
        continue
    for name in shown:
        difference = paired_difference([examples[objective][name]], [examples["simclr"][name]])
        sure = "separated" if difference.excludes_zero else "not separated"
        print(f"{objective} - simclr, {describe(name).title}: {100 * difference.mean:+.1f} "
              f"[{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]  {sure}")  # fmt: skip

# %% [markdown]
# ## Look
#
# A page with curves, tables, graphs of a batch, maps, nearest neighbors and the worst errors:

# %%
print(write_report(list(folders.values()), RUNS / "objectives" / "report.html"))

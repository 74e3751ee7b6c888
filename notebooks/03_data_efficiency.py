# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # 3. Data efficiency
#
# How much do a few images of every class teach? The encoder sees 1, 2 or all drawings of a concept
# (`data.samples_per_class`); the number of steps stays the same, and probes are fitted on the whole training split. On
# a large scale, with seeds: `configs/ablations/samples_per_class.py`.

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt

import xsample_jax
from xsample_jax.evals.metrics import bootstrap, load_examples

QUICK = bool(os.environ.get("NOTEBOOK_QUICK"))  # small settings, for the tests
ROOT = next(folder for folder in [Path.cwd(), *Path.cwd().parents] if (folder / "configs").is_dir())
RUNS = Path(os.environ.get("NOTEBOOK_RUNS", ROOT / "runs" / "notebooks"))
OBJECTIVES = ("xclr",) if QUICK else ("xclr", "simclr", "supcon")
COUNTS = (1, None) if QUICK else (1, 2, None)
VARIANT = ",smoke" if QUICK else ""
CHANGES = ["eval.suite=emoji", "eval.train_split=val", "steps=2"] if QUICK else ["steps=200"]
METRIC = "subgroup/knn"

# %%
scores = {}
for objective in OBJECTIVES:
    for count in COUNTS:
        config = xsample_jax.load_config(
            f"{ROOT}/configs/quickstart.py:{objective}{VARIANT}", [*CHANGES, f"data.samples_per_class={count}"]
        )
        folder = RUNS / "data_efficiency" / f"{objective}-{count or 'all'}"
        xsample_jax.train(config, folder)
        scores[objective, count] = bootstrap([load_examples(folder / "evaluation.npz")[METRIC]])
        print(objective, count or "all", f"{scores[objective, count].mean:.1%}")

# %% [markdown]
# The bars are 95 % intervals over concepts, of one seed.

# %%
figure = plt.figure(figsize=(5, 3), layout="constrained")
axes = figure.subplots()
for place, objective in enumerate(OBJECTIVES):
    found = [scores[objective, count] for count in COUNTS]
    x = [k + 0.06 * place for k in range(len(COUNTS))]
    axes.plot(x, [100 * one.mean for one in found], "o-", color=f"C{place}", label=objective)
    axes.vlines(x, [100 * one.low for one in found], [100 * one.high for one in found], color=f"C{place}")
axes.set_xticks(range(len(COUNTS)), [str(count or "all") for count in COUNTS])
axes.set(xlabel="drawings of a concept in training", ylabel=f"{METRIC}, %")
axes.legend()

# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # 1. The similarity graph: choose τₛ by looking
#
# X-CLR asks the similarities of image embeddings to match a graph: for every image, the softmax of its caption's
# cosines to all others, divided by a temperature τₛ. Everything about that graph is known before training. This
# notebook looks at it, on the emoji set that the package ships. The same as a page, for any dataset:
# `python -m xsample_jax.tools.inspect --data=emoji`.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

from xsample_jax.config import default_config
from xsample_jax.data.decode import decode_record
from xsample_jax.data.sources import open_source
from xsample_jax.reports import caption_graph
from xsample_jax.reports.caption_advice import choices, softest
from xsample_jax.reports.caption_graph import draw_graph, read_sample

QUICK = bool(os.environ.get("NOTEBOOK_QUICK"))  # small settings, for the tests
BATCH, VIEWS = (64, 2) if QUICK else (256, 2)

# %% [markdown]
# ## The captions
#
# Each record has a caption and its embedding by a frozen sentence encoder. Of a large set this reads a random sample.

# %%
source = open_source(default_config().data, "val" if QUICK else "train")
sample = read_sample(source, "first", count=400 if QUICK else 4000)
for caption in sample.captions[:5]:
    print(caption)
print(f"{len(sample)} of {sample.total} records, {len(set(sample.captions))} different captions")

# %% [markdown]
# ## How alike are they?
#
# Nearly all pairs have nothing to do with each other; what the graph can teach is in the thin tail on the right.

# %%
counts = caption_graph.histogram(sample.embedding)
cosines = (np.arange(len(counts)) + 0.5) * 2 / len(counts) - 1
figure = plt.figure(figsize=(6, 3), layout="constrained")
axes = figure.subplots()
axes.step(cosines, counts / counts.sum())
axes.set(yscale="log", xlabel="cosine of two captions", ylabel="share of pairs")

# %% [markdown]
# What does a cosine mean here? Pairs from a ladder of similarity: at which rung do the images stop being alike to
# you?

# %%
levels = (0.9999, 0.999, 0.99, 0.9, 0.5)
figure = plt.figure(figsize=(8, 1.9 * len(levels)), layout="constrained")
grid = figure.subplots(len(levels), 4)
steps = caption_graph.ladder(sample.embedding, sample.captions, levels, each=2)
for row, (level, pairs) in zip(grid, steps, strict=True):
    for k, (i, j, cosine) in enumerate(pairs):
        for axes, index in ((row[2 * k], i), (row[2 * k + 1], j)):
            axes.imshow(decode_record(source[int(sample.index[index])], 64, 3))
            axes.set_title(sample.captions[index][:24], fontsize=7)
            axes.axis("off")
        row[2 * k].set_title(f"{level:g}: cosine {cosine:.2f}\n{sample.captions[i][:24]}", fontsize=7)

# %% [markdown]
# ## What τₛ does
#
# Small τₛ: all of the target lies on the image's own other view, and X-CLR is SimCLR. Large τₛ: it lies on everything,
# and unrelated images are drawn together. In between is the range in which captions teach something. "Ordinary" pairs
# are those no more alike than 95 % of random pairs.

# %%
temperatures = np.geomspace(0.01, 1, 60)
ordinary = caption_graph.quantile(counts, caption_graph.ORDINARY)
curves = caption_graph.target_curves(sample.embedding, BATCH, temperatures, VIEWS, ordinary)
figure = plt.figure(figsize=(9, 3), layout="constrained")
left, right = figure.subplots(1, 2)
names = ("own_view_mass", "alike_mass", "same_caption_mass", "ordinary_mass")
left.stackplot(temperatures, [curves[name] for name in names], labels=[name.replace("_", " ") for name in names])
left.set(xscale="log", xlabel="τₛ", ylabel="share of the target", ylim=(0, 1))
left.legend(fontsize=7, loc="lower left")
right.plot(temperatures, curves["effective_neighbors"])
right.set(xscale="log", yscale="log", xlabel="τₛ", ylabel="effective neighbors")

# %% [markdown]
# The same as a table: which τₛ gives how many effective neighbors, and what is on ordinary pairs then.

# %%
for choice in choices(curves, temperatures, BATCH * VIEWS):
    masses = ", ".join(f"{name.replace('_mass', '')} {mass:.0%}" for name, mass in choice.masses.items())
    print(f"{choice.neighbors:5g} neighbors: tau_s = {choice.tau_s:.3f}   {masses}")
limit = softest(curves, temperatures)
print(f"At most 20% on ordinary pairs: tau_s up to {limit.tau_s:.3f}, {limit.neighbors:.1f} neighbors.")

# %% [markdown]
# ## The target of a batch
#
# Rows and columns are images in an order in which neighbors are alike. Too cold, too hot, and the one above.

# %%
rows = np.random.default_rng(0).permutation(len(sample))[: min(BATCH, 128)]
similarity = sample.embedding[rows] @ sample.embedding[rows].T
order = caption_graph.chain(similarity)
similarity = similarity[np.ix_(order, order)]
figure = plt.figure(figsize=(11, 3.6), layout="constrained")
for axes, tau_s in zip(figure.subplots(1, 3), (0.3 * limit.tau_s, limit.tau_s, 3 * limit.tau_s), strict=True):
    weights = np.exp((similarity - 1) / tau_s)
    draw_graph(axes, weights / weights.sum(axis=1, keepdims=True), np.zeros(len(order)))
    axes.set(title=f"τₛ = {tau_s:.3f}", yticks=[])

# %% [markdown]
# Train with what you chose: `--config.objective.target_temperature=...`, or `--config.objective.target_neighbors=8`,
# which finds τₛ anew on every batch.

# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # 5. Your own data in ten lines
#
# Images and a table of captions become an encoder. So that it runs as it is, the next cell draws a folder
# of images with captions; **put your own folder and table in its place**.

# %%
import csv
import os
from pathlib import Path

import numpy as np
from PIL import Image

from xsample_jax.prepare.shapes import CAPTIONS, caption_of, draw, factors_of

QUICK = bool(os.environ.get("NOTEBOOK_QUICK"))  # small settings, for the tests
ROOT = next(folder for folder in [Path.cwd(), *Path.cwd().parents] if (folder / "configs").is_dir())
RUNS = Path(os.environ.get("NOTEBOOK_RUNS", ROOT / "runs" / "notebooks")) / "own"
MODEL = os.environ.get("NOTEBOOK_TEXT_MODEL", "sentence-transformers/all-MiniLM-L6-v2")  # 90 MB, fetched once
COUNT = 64 if QUICK else 3000

photos = RUNS / "photos"
photos.mkdir(parents=True, exist_ok=True)
with open(RUNS / "photos.csv", "w", newline="") as file:
    table = csv.writer(file)
    table.writerow(["image", "caption"])
    for number in range(COUNT):
        draw(factors_of(number), number).save(photos / f"{number}.png")
        table.writerow([f"{number}.png", caption_of(factors_of(number), CAPTIONS[1])])

# %% [markdown]
# ## The ten lines

# %%
import xsample_jax  # noqa: E402
from xsample_jax.tools import embed, inspect, prepare  # noqa: E402

prepare.run(["--source=folder", f"--path={photos}", f"--table={RUNS / 'photos.csv'}", f"--out={RUNS / 'records'}"])
embed.run([f"--data={RUNS / 'records'}", f"--model={MODEL}"])
inspect.run([f"--data={RUNS / 'records'}", f"--out={RUNS / 'inspect.html'}", "--batch_size=64"])  # choose tau_s
config = xsample_jax.load_config(
    f"{ROOT}/configs/quickstart.py" + (":smoke" if QUICK else ""),
    ["data.source=records", f"data.path={RUNS / 'records'}", "eval.suite=none", f"steps={2 if QUICK else 300}",
     f"batch_size={16 if QUICK else 128}"],
)  # fmt: skip
xsample_jax.train(config, RUNS / "run")
encoder = xsample_jax.load_encoder(RUNS / "run")

# %% [markdown]
# ## Use it
#
# `encode` takes images of any sizes, as uint8 arrays, and returns a row of features for each.

# %%
images = [np.asarray(Image.open(photos / f"{number}.png")) for number in range(min(COUNT, 500))]
features = encoder.encode(images)
features = features / np.linalg.norm(features, axis=1, keepdims=True)
similarity = features @ features.T - 2 * np.eye(len(features))
for query in range(3):
    print(caption_of(factors_of(query), CAPTIONS[1]))
    for found in np.argsort(-similarity[query])[:3]:
        print(f"    {similarity[query, found]:.2f}  {caption_of(factors_of(int(found)), CAPTIONS[1])}")

# %% [markdown]
# The page about the captions is `inspect.html`, the run folder has `report.html`. For the choice of the encoder, the
# batch size and the number of steps begin with a copy of `configs/quickstart.py`; on images of more than 64 pixels,
# with `configs/imagenet.py`.

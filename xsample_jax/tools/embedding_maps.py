"""Pictures of the embedding map: the evaluated images on two principal axes, coloured by class, style, factor."""

from pathlib import Path

import numpy as np

from xsample_jax.tools.figure_style import COLOURS, Picture, picture
from xsample_jax.tools.series import Series

_MARKERS = ("o", "^", "s")


def map_pictures(series: Series, place: int, folder: Path) -> list[Picture]:
    """One picture per colouring that the snapshot of the series has (evals/embedding_map.py)."""
    shot = series.snapshot
    if shot is None or "map/xy" not in shot:
        return []
    first, second = 100 * shot["map/share"]
    pictures = []
    for name in [key.removeprefix("map/codes/") for key in shot if key.startswith("map/codes/")]:
        codes, words = shot[f"map/codes/{name}"], shot[f"map/words/{name}"]

        def draw(figure, theme, codes=codes, words=words):
            axes = figure.subplots()
            axes.set_aspect("equal", adjustable="datalim")
            axes.set_xticklabels([])
            axes.set_yticklabels([])
            # In random order, so that no class lies on top of all others.
            order = np.random.default_rng(0).permutation(len(codes))
            for code, word in enumerate(words):
                rows = order[codes[order] == code]
                look = {"color": COLOURS[code % len(COLOURS)], "marker": _MARKERS[code // len(COLOURS) % 3]}
                axes.scatter(*shot["map/xy"][rows].T, s=9, linewidth=0, alpha=0.75, label=word, **look)
            figure.legend(
                loc="outside lower center", ncols=min(4, len(words)), fontsize=8, markerscale=1.8, handletextpad=0.1,
                columnspacing=0.9,
            )  # fmt: skip

        title = f"Coloured by {name}"
        caption = f"Across: {first:.0f}% of the variance of the features; up: {second:.0f}%."
        pictures.append(picture(folder, f"map_{place}_{name}", title, caption, draw, fit=True))
    return pictures

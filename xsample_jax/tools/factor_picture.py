"""The picture of the suite shapes: how much of each factor the features of each series keep."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xsample_jax.evals.catalogue import HEADLINES
from xsample_jax.evals.intervals import bootstrap
from xsample_jax.tools.figure_style import Picture, colour, picture
from xsample_jax.tools.series import Series


def factor_pictures(series: Sequence[Series], folder: Path) -> list[Picture]:
    """One picture with a dot and its interval per factor and series; none where no run has factors."""
    names = list(dict.fromkeys(name for one in series for name in one.metrics if _is_kept(name)))
    names.sort(key=lambda name: HEADLINES.index(name) if name in HEADLINES else len(HEADLINES))
    if not names:
        return []

    def draw(figure, theme):
        axes = figure.subplots()
        places = np.arange(len(names))
        for place, one in enumerate(series):
            shift = 0.7 * ((place + 0.5) / len(series) - 0.5)
            for x, name in zip(places, names, strict=True):
                scores = one.scores(name)
                if not scores:
                    continue
                interval = bootstrap(scores)
                axes.plot([x + shift] * 2, [100 * interval.low, 100 * interval.high], color=colour(place))
                axes.plot(x + shift, 100 * interval.mean, "o", markersize=4, color=colour(place))
        axes.axhline(0, color=theme.muted, linewidth=1)
        axes.set_xticks(places, [name.split("/")[1] for name in names], fontsize=9)
        axes.grid(axis="x", visible=False)
        axes.set_ylim(top=104)
        axes.yaxis.set_major_formatter("{x:.3g}%")

    caption = "0: no more than chance, 100%: a linear probe makes no error. Bars are 95% intervals."
    return [picture(folder, "factors", "What the features keep of each factor", caption, draw)]


def _is_kept(name: str) -> bool:
    return name.startswith("factor/") and name.endswith("/kept")

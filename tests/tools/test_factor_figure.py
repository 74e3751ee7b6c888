"""The figure of factors, drawn for runs of the suite shapes and for no others; and figures with long names."""

import warnings

import numpy as np
from PIL import Image

from xsample_jax.evals.metrics import Scores
from xsample_jax.reports.figures import factor_panels
from xsample_jax.reports.runs import Run, Series
from xsample_jax.reports.style import FITTED, draw_panel


def series(tmp_path, name, kept):
    examples = {f"factor/{factor}/kept": Scores(np.full(20, value), np.arange(20)) for factor, value in kept.items()}
    metrics = {key: scores.mean() for key, scores in examples.items()}
    return Series(name, (Run(name, tmp_path, {"seed": 0}, [], [(1, metrics)], examples, None),))


def test_dots_stand_where_the_numbers_are(tmp_path):
    some = [series(tmp_path, "a", {"ground": 1.0, "shape": 0.0}), series(tmp_path, "b", {"shape": 0.5, "taste": 0.2})]
    (panel,) = factor_panels(some, tmp_path)
    assert panel.light.startswith("data:image/png")
    pixels = np.asarray(Image.open(tmp_path / "factors.png").convert("RGB")).astype(int)
    rows, columns = {}, {}
    for name, color in (("a", (200, 85, 61)), ("b", (47, 127, 181))):
        rows[name], columns[name] = np.nonzero(np.abs(pixels - color).sum(axis=2) < 40)
    # Shape, ground, taste from left to right: a is lowest at shape and highest at ground, b between them.
    assert rows["a"][columns["a"].argmin()] > rows["b"].max() > rows["b"].min() > rows["a"][columns["a"].argmax()]
    assert columns["b"].max() > columns["a"].max()


def test_runs_without_factors_have_no_panel(tmp_path):
    plain = Series("a", (Run("a", tmp_path, {}, [], [(1, {"group/knn": 0.5})], {}, None),))
    assert factor_panels([plain], tmp_path) == []


def test_long_names_leave_room_for_the_figure(tmp_path):
    """faults B2: a class name of 200 characters made the axes of figures collapse, with a warning of matplotlib."""
    names = ["x" * 200, "short", "y" * 100 + "\n" + "z" * 100]

    def draw(figure, theme):
        axes = figure.subplots()
        axes.imshow([[0, 1], [2, 3]])
        axes.set_yticks([0, 0.5, 1], names)
        axes.set_title(names[2])
        for name in names:
            axes.plot([0, 1], label=name)
        figure.legend(loc="outside lower center")
        drawn.append(axes)

    drawn: list = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_panel(tmp_path, "long", "title", "caption", draw, size=FITTED)
    shown = [label.get_text() for label in drawn[0].get_yticklabels()]
    assert shown[0] == "x" * 17 + " ... " + "x" * 10
    assert shown[1] == "short"
    assert drawn[0].get_window_extent().width > 100

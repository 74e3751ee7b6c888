"""The figure of factors: drawn for runs of the suite shapes, in the order of the tables, and for no others."""

import numpy as np
from PIL import Image

from xsample_jax.evals.metrics import Scores
from xsample_jax.reports.figures import factor_panels
from xsample_jax.reports.runs import Run, Series


def series(tmp_path, name, kept):
    examples = {f"factor/{factor}/kept": Scores(np.full(20, value), np.arange(20)) for factor, value in kept.items()}
    metrics = {key: scores.mean() for key, scores in examples.items()}
    return Series(name, (Run(name, tmp_path, {"seed": 0}, [], [(1, metrics)], examples, None),))


def test_dots_stand_where_the_numbers_are(tmp_path):
    some = [series(tmp_path, "a", {"ground": 1.0, "shape": 0.0}), series(tmp_path, "b", {"shape": 0.5, "taste": 0.2})]
    (draw_panel,) = factor_panels(some, tmp_path)
    assert draw_panel.light.startswith("data:image/png")
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

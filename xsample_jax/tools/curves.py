"""Curves of series against steps: the mean over seeds as a line, the seeds' range as a band."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xsample_jax.evals.catalogue import Metric
from xsample_jax.tools.figure_style import COLOURS, Picture, colour, picture
from xsample_jax.tools.series import Series

CURVES = (
    (
        "loss",
        "Loss",
        "The loss itself: its floor is each objective's own target entropy, so compare shapes, not levels.",
    ),
    (
        "kl",
        "KL of target and student",
        "What is left to learn, loss minus target entropy: this one is comparable and tends to 0.",
    ),
    (
        "target_entropy",
        "Target entropy H(s)",
        "How much the target spreads: 0 is one positive per row, higher is a softer graph.",
    ),
    (
        "own_view_mass",
        "Mass on the own other views",
        "Share of the target on an image's other views: 1 is plain self-supervision.",
    ),
    (
        "same_class_mass",
        "Mass on the same class",
        "Share of the target on images of the same label, the own views included.",
    ),
    ("learning_rate", "Learning rate", "The schedule that was really run: look for the warm-up and the decay."),
    (
        "images_per_second",
        "Images per second",
        "Speed without compilation, evaluation and checkpoints: dips are a starved or shared machine.",
    ),
    ("temperature", "Temperature", "The student's temperature: it moves only where it is learned."),
)
_SMOOTH = ("loss", "kl", "target_entropy", "own_view_mass", "same_class_mass", "images_per_second")


def smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Returns the centred moving mean of [runs, t] over `width` of a run's own values, over fewer at the ends."""
    result = values.copy()
    for row in result:
        there = np.isfinite(row)
        sums = np.concatenate([[0.0], np.cumsum(row[there])])
        places = np.arange(there.sum())
        low = np.maximum(places - width // 2, 0)
        high = np.minimum(places + width // 2 + 1, len(places))
        row[there] = (sums[high] - sums[low]) / (high - low)
    return result


def learning_curves(series: Sequence[Series], folder: Path) -> list[Picture]:
    """One picture per training metric that any run has logged; all series overlaid."""
    pictures = []
    for metric, title, caption in CURVES:
        curves = [one.curve(metric) for one in series]
        if not any(values.size for _, values in curves):
            continue
        if metric == "temperature" and all(np.nanmax(v) - np.nanmin(v) < 1e-6 for _, v in curves if v.size):
            continue  # Fixed in every run: the config says it all.

        def draw(figure, theme, metric=metric, curves=curves):
            axes = figure.subplots()
            for place, (one, (steps, values)) in enumerate(zip(series, curves, strict=True)):
                if not values.size:
                    continue
                look = _look(place)
                if metric not in _SMOOTH:
                    # Schedules are often the same: the later line lies on a broader earlier one.
                    look["linewidth"] = 1.6 + 4.0 * (len(series) - 1 - place) / len(series)
                width = len(steps) // 30 if metric in _SMOOTH else 0
                if width > 1 and len(values) == 1:
                    axes.plot(steps, values[0], **look, alpha=0.25, linewidth=0.8)
                _line_and_band(axes, steps, smooth(values, width) if width > 1 else values, one.name, look)
            _limits(axes, metric, [values for _, values in curves])
            axes.set_xlabel("step")
            if metric == "loss" and len(series) <= 6 and max(len(one.name) for one in series) <= 24:
                axes.legend(fontsize=9)

        pictures.append(picture(folder, f"curve_{metric}", title, caption, draw))
    return pictures


def evaluation_curves(series: Sequence[Series], metrics: Sequence[Metric], folder: Path) -> list[Picture]:
    """Metrics against steps, for those that some run was evaluated on more than once."""
    pictures = []
    for metric in metrics:
        curves = [one.evaluation_curve(metric.name) for one in series]
        if max(len(steps) for steps, _ in curves) < 2:
            continue

        def draw(figure, theme, metric=metric, curves=curves):
            axes = figure.subplots()
            for place, (one, (steps, values)) in enumerate(zip(series, curves, strict=True)):
                if values.size:
                    scale = 100 if metric.percent else 1
                    _line_and_band(axes, steps, scale * values, one.name, _look(place) | {"marker": "o"})
            axes.set_xlabel("step")
            if metric.percent:
                axes.yaxis.set_major_formatter("{x:.3g}%")

        name = "evaluation_" + metric.name.replace("/", "_")
        caption = "Evaluation while training: a curve that still rises asks for more steps."
        pictures.append(picture(folder, name, metric.title, caption, draw))
    return pictures


def _look(place: int) -> dict:
    """After eight series the colours repeat, then the dashes tell them apart."""
    return {"color": colour(place), "linestyle": ("-", "--", ":")[place // len(COLOURS) % 3]}


def _line_and_band(axes, steps: np.ndarray, values: np.ndarray, name: str, look: dict) -> None:
    """Draws the mean of values [runs, t] and, for several runs, the range between the lowest and the highest."""
    some = np.isfinite(values).any(axis=0)
    steps, values = steps[some], values[:, some]
    look = {"marker": "o" if len(steps) == 1 else None, "markersize": 4} | look
    axes.plot(steps, np.nanmean(values, axis=0), **look, label=name)
    if len(values) > 1:
        low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
        axes.fill_between(steps, low, high, color=look["color"], alpha=0.2, linewidth=0)


def _limits(axes, metric: str, curves: Sequence[np.ndarray]) -> None:
    """Shares start at 0 and end at 1; speed starts at 0; a constant curve is not blown up to its rounding errors."""
    values = np.concatenate([values.ravel() for values in curves])
    values = values[np.isfinite(values)]
    if not len(values):
        return
    if metric.endswith("mass"):
        axes.set_ylim(-0.02, 1.02)
    elif metric == "images_per_second":
        axes.set_ylim(0, 1.1 * values.max())
    elif np.ptp(values) < 1e-3 * max(abs(values).max(), 1e-12):
        middle = values.mean()
        axes.set_ylim(middle - max(0.5 * abs(middle), 0.05), middle + max(0.5 * abs(middle), 0.05))

"""The figures of the report: curves of runs, graphs of a batch, and the target against its temperature."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xsample_jax.graphs.inspect import draw_graph, target_against_temperature
from xsample_jax.tools.figure_style import COLOURS, Picture, colour, picture
from xsample_jax.tools.runs import Run

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
    """Returns the centred moving mean over `width` values, over fewer at the ends."""
    half = width // 2
    sums = np.concatenate([[0.0], np.cumsum(values)])
    low = np.maximum(np.arange(len(values)) - half, 0)
    high = np.minimum(np.arange(len(values)) + half + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


def learning_curves(runs: Sequence[Run], folder: Path) -> list[Picture]:
    """One picture per training metric that any run has logged; all runs overlaid."""
    pictures = []
    for metric, title, caption in CURVES:
        curves = [run.curve(metric) for run in runs]
        if not any(len(steps) for steps, _ in curves):
            continue
        if metric == "temperature" and all(np.ptp(values) < 1e-6 for _, values in curves if len(values)):
            continue  # Fixed in every run: the config says it all.

        def draw(figure, theme, metric=metric, curves=curves):
            axes = figure.subplots()
            for place, (run, (steps, values)) in enumerate(zip(runs, curves, strict=True)):
                if not len(steps):
                    continue
                # After eight runs the colours repeat, then the dashes tell them apart.
                look = {"color": colour(place), "linestyle": ("-", "--", ":")[place // len(COLOURS) % 3]}
                if metric not in _SMOOTH:
                    # Schedules are often the same: the later line lies on a broader earlier one.
                    look["linewidth"] = 1.6 + 4.0 * (len(runs) - 1 - place) / len(runs)
                width = len(values) // 30 if metric in _SMOOTH else 0
                if width > 1:
                    axes.plot(steps, values, **look, alpha=0.25, linewidth=0.8)
                    values = smooth(values, width)
                axes.plot(steps, values, **look, label=run.name, marker="o" if len(steps) == 1 else None)
            _limits(axes, metric, curves)
            axes.set_xlabel("step")
            if metric == "loss" and len(runs) <= 6:
                axes.legend(fontsize=9)

        pictures.append(picture(folder, f"curve_{metric}", title, caption, draw))
    return pictures


def _limits(axes, metric: str, curves) -> None:
    """Shares start at 0 and end at 1; speed starts at 0; a constant curve is not blown up to its rounding errors."""
    values = np.concatenate([values for _, values in curves])
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


def evaluation_curves(runs: Sequence[Run], metrics, folder: Path) -> list[Picture]:
    """Metrics against steps, for those that some run was evaluated on more than once."""
    pictures = []
    for metric in metrics:
        curves = [
            [(step, values[metric.name]) for step, values in run.evaluations if metric.name in values] for run in runs
        ]
        if max(len(points) for points in curves) < 2:
            continue

        def draw(figure, theme, metric=metric, curves=curves):
            axes = figure.subplots()
            for place, points in enumerate(curves):
                if points:
                    steps, values = np.array(points).T
                    scale = 100 if metric.percent else 1
                    axes.plot(steps, scale * values, color=colour(place), marker="o", markersize=4)
            axes.set_xlabel("step")
            if metric.percent:
                axes.yaxis.set_major_formatter("{x:.3g}%")

        name = "evaluation_" + metric.name.replace("/", "_")
        caption = "Evaluation while training: a curve that still rises asks for more steps."
        pictures.append(picture(folder, name, metric.title, caption, draw))
    return pictures


GRAPH_CAPTIONS = (
    "What the objective asks for: blocks on the diagonal are groups that should be close.",
    "What the trained model says: the nearer to the picture beside it, the smaller the KL.",
    "Red: the model finds the pair more alike than asked; blue: less.",
)
TEMPERATURE_CAPTIONS = (
    "Too low a τₛ (left) is plain self-supervision; the dotted line is the τₛ of the run.",
    "exp(entropy) of a target row: how many of the batch's rows count as positives.",
)


def graph_panels(run: Run, place: int, folder: Path) -> list[Picture]:
    """Target, student and difference of one batch, rows and columns sorted by group."""
    target, student, groups = (run.snapshot[name] for name in ("target", "student", "groups"))
    panels = (
        ("target", "Target", target, GRAPH_CAPTIONS[0]),
        ("student", "Student", student, GRAPH_CAPTIONS[1]),
        ("difference", "Student minus target", student - target, GRAPH_CAPTIONS[2]),
    )
    pictures = []
    for key, title, graph, caption in panels:

        def draw(figure, theme, graph=graph, key=key):
            axes = figure.subplots()
            axes.grid(False)
            axes.spines[:].set_visible(False)
            ink = "black" if key == "difference" else "white"
            image = draw_graph(axes, graph, groups, signed=key == "difference", ink=ink)
            axes.tick_params(axis="y", labelsize=10)
            bar = figure.colorbar(image, ax=axes, shrink=0.9, aspect=28, pad=0.02)
            bar.outline.set_visible(False)
            bar.ax.grid(False)
            bar.ax.tick_params(labelsize=9)
            bar.ax.minorticks_off()

        pictures.append(picture(folder, f"graph_{place}_{key}", title, caption, draw, fit=True))
    return pictures


def temperature_panels(run: Run, folder: Path) -> list[Picture]:
    """Own-view mass and effective neighbours of the caption target against tau_s, for the batch of a snapshot."""
    if run.snapshot is None or "similarity" not in run.snapshot:
        return []
    temperatures = np.geomspace(0.02, 1.0, 60)
    views = int(run.snapshot["views"])
    curves = target_against_temperature(run.snapshot["similarity"], temperatures, views)
    used = run.config.get("objective.target_temperature")
    panels = (
        ("own_view_mass", "Own-view mass against τₛ", TEMPERATURE_CAPTIONS[0]),
        ("effective_neighbours", "Effective neighbours against τₛ", TEMPERATURE_CAPTIONS[1]),
    )
    pictures = []
    for key, title, caption in panels:

        def draw(figure, theme, key=key):
            axes = figure.subplots()
            axes.plot(temperatures, curves[key], color=COLOURS[1])
            axes.set_xscale("log")
            ticks = [0.02, 0.05, 0.1, 0.2, 0.5, 1]
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
            axes.set_xlabel("τₛ")
            if used:
                axes.axvline(float(used), color=theme.muted, linestyle=":")

        pictures.append(picture(folder, f"temperature_{key}", title, caption, draw))
    return pictures

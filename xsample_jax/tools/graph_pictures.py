"""Pictures of a batch's similarity graph: target, student and difference, and the target against its temperature."""

from pathlib import Path

import numpy as np

from xsample_jax.graphs.inspect import draw_graph, target_against_temperature
from xsample_jax.objectives.build import reads_target_temperature
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.tools.figure_style import COLOURS, Picture, picture
from xsample_jax.tools.series import Series

GRAPH_CAPTIONS = (
    "What the objective asks for: blocks on the diagonal are groups that should be close.",
    "What the trained model says: the nearer to the picture beside it, the smaller the KL.",
    "Red: the model finds the pair more alike than asked; blue: less.",
)
STAND_IN = "An image's own views: the objective itself has no single graph among images that could be drawn."
TEMPERATURE_CAPTIONS = (
    "Too low a τₛ (left) is plain self-supervision; the dotted line is the τₛ of the run.",
    "exp(entropy) of a target row: how many of the batch's rows count as positives.",
)


def graph_panels(series: Series, place: int, folder: Path) -> list[Picture]:
    """Target, student and difference of one batch, rows and columns sorted by group; none without a snapshot."""
    if series.snapshot is None:
        return []
    target, student, groups = (series.snapshot[name] for name in ("target", "student", "groups"))
    asked = STAND_IN if series.snapshot.get("stand_in", False) else GRAPH_CAPTIONS[0]
    panels = (
        ("target", "Target", target, asked),
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


def target_temperature(series: Series) -> float | None:
    """tau_s of the series: its config's, else its preset's; None where nothing reads one or a rule chooses it."""
    get = series.config.get
    preset = PRESETS.get(get("objective.preset"))
    if any(get(f"objective.{rule}") is not None for rule in ("target_neighbours", "target_same_mass")):
        return None
    if preset is None or not reads_target_temperature(preset.objective):
        return None
    value = get("objective.target_temperature") or preset.objective.target_temperature
    return value if isinstance(value, float) else None


def temperature_panels(series: Series, folder: Path) -> list[Picture]:
    """Own-view mass and effective neighbours of the caption target against tau_s, for the batch of a snapshot."""
    if series.snapshot is None or "similarity" not in series.snapshot:
        return []
    temperatures = np.geomspace(0.02, 1.0, 60)
    views = int(series.snapshot["views"])
    curves = target_against_temperature(series.snapshot["similarity"], temperatures, views)
    used = target_temperature(series)
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
                axes.axvline(used, color=theme.muted, linestyle=":")

        pictures.append(picture(folder, f"temperature_{key}", title, caption, draw))
    return pictures

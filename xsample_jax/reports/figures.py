"""Figures of the report: curves, target graphs, embedding maps, factors and galleries."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from xsample_jax.evals.catalog import HEADLINES, Metric
from xsample_jax.evals.metrics import bootstrap
from xsample_jax.evals.snapshot import OTHER, SAME_GROUP, SAME_LABEL
from xsample_jax.objectives.objective import reads_target_temperature
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.reports.caption_graph import draw_graph, target_against_temperature
from xsample_jax.reports.runs import Series
from xsample_jax.reports.style import COLORS, FITTED, LONGEST, Panel, color, draw_panel, image_uri, write_png

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
    """Returns the centered moving mean of [runs, t] over `width` of a run's own values, over fewer at the ends."""
    result = values.copy()
    for row in result:
        there = np.isfinite(row)
        sums = np.concatenate([[0.0], np.cumsum(row[there])])
        places = np.arange(there.sum())
        low = np.maximum(places - width // 2, 0)
        high = np.minimum(places + width // 2 + 1, len(places))
        row[there] = (sums[high] - sums[low]) / (high - low)
    return result


def learning_curves(series: Sequence[Series], folder: Path) -> list[Panel]:
    """One figure per training metric that any run has logged; all series overlaid."""
    panels = []
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
                    # Schedules are often the same: the later line is drawn on a broader earlier one.
                    look["linewidth"] = 1.6 + 4.0 * (len(series) - 1 - place) / len(series)
                width = len(steps) // 30 if metric in _SMOOTH else 0
                if width > 1 and len(values) == 1:
                    axes.plot(steps, values[0], **look, alpha=0.25, linewidth=0.8)
                _line_and_band(axes, steps, smooth(values, width) if width > 1 else values, one.name, look)
            _limits(axes, metric, [values for _, values in curves])
            axes.set_xlabel("step")
            if metric == "loss" and len(series) <= 6 and max(len(one.name) for one in series) <= 24:
                axes.legend(fontsize=9)

        panels.append(draw_panel(folder, f"curve_{metric}", title, caption, draw))
    return panels


def evaluation_curves(series: Sequence[Series], metrics: Sequence[Metric], folder: Path) -> list[Panel]:
    """Metrics against steps, for those that some run was evaluated on more than once."""
    panels = []
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
        panels.append(draw_panel(folder, name, metric.title, caption, draw))
    return panels


def _look(place: int) -> dict:
    """After eight series the colors repeat, then the dashes tell them apart."""
    return {"color": color(place), "linestyle": ("-", "--", ":")[place // len(COLORS) % 3]}


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


# Figures of a batch's similarity graph: target, student and difference, and the target against its temperature.


GRAPH_CAPTIONS = (
    "What the objective asks for: blocks on the diagonal are groups that should be close.",
    "What the trained model says: the nearer to the figure beside it, the smaller the KL.",
    "Red: the model finds the pair more alike than asked; blue: less.",
)
PLACEHOLDER_SPEC = "An image's own views: the objective itself has no single graph among images that could be drawn."
TEMPERATURE_CAPTIONS = (
    "Too low a τₛ (left) is plain self-supervision; the dotted line is the τₛ of the run.",
    "exp(entropy) of a target row: how many of the batch's rows count as positives.",
)


def graph_panels(series: Series, place: int, folder: Path) -> list[Panel]:
    """Target, student and difference of one batch, rows and columns sorted by group; none without a snapshot."""
    if series.snapshot is None:
        return []
    target, student, groups = (series.snapshot[name] for name in ("target", "student", "groups"))
    asked = PLACEHOLDER_SPEC if series.snapshot.get("stand_in", False) else GRAPH_CAPTIONS[0]
    wanted = (
        ("target", "Target", target, asked),
        ("student", "Student", student, GRAPH_CAPTIONS[1]),
        ("difference", "Student minus target", student - target, GRAPH_CAPTIONS[2]),
    )
    panels = []
    for key, title, graph, caption in wanted:

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

        panels.append(draw_panel(folder, f"graph_{place}_{key}", title, caption, draw, size=FITTED))
    return panels


def target_temperature(series: Series) -> float | None:
    """tau_s of the series: its config's, else its preset's; None where nothing reads one or a rule chooses it."""
    get = series.config.get
    preset = PRESETS.get(get("objective.preset"))
    if any(get(f"objective.{rule}") is not None for rule in ("target_neighbors", "target_same_mass")):
        return None
    if preset is None or not reads_target_temperature(preset.objective):
        return None
    value = get("objective.target_temperature") or preset.objective.target_temperature
    return value if isinstance(value, float) else None


def temperature_panels(series: Series, folder: Path) -> list[Panel]:
    """Own-view mass and effective neighbors of the caption target against tau_s, for the batch of a snapshot."""
    if series.snapshot is None or "similarity" not in series.snapshot:
        return []
    temperatures = np.geomspace(0.02, 1.0, 60)
    views = int(series.snapshot["views"])
    curves = target_against_temperature(series.snapshot["similarity"], temperatures, views)
    used = target_temperature(series)
    wanted = (
        ("own_view_mass", "Own-view mass against τₛ", TEMPERATURE_CAPTIONS[0]),
        ("effective_neighbors", "Effective neighbors against τₛ", TEMPERATURE_CAPTIONS[1]),
    )
    panels = []
    for key, title, caption in wanted:

        def draw(figure, theme, key=key):
            axes = figure.subplots()
            axes.plot(temperatures, curves[key], color=COLORS[1])
            axes.set_xscale("log")
            ticks = [0.02, 0.05, 0.1, 0.2, 0.5, 1]
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
            axes.set_xlabel("τₛ")
            if used:
                axes.axvline(used, color=theme.muted, linestyle=":")

        panels.append(draw_panel(folder, f"temperature_{key}", title, caption, draw))
    return panels


# Figures of the embedding map: the evaluated images on a plane, colored by class, style, factor.


UNNAMED = ("none", "other")  # words of embedding_map.py that are not values
SIZE = (5.6, 5.4)


def map_panels(series: Series, place: int, folder: Path) -> list[Panel]:
    """One figure per coloring that the snapshot of the series has (evals/snapshot.py)."""
    shot = series.snapshot
    if shot is None or "map/xy" not in shot:
        return []
    caption = "UMAP: neighbors stay together; distances between groups, and their sizes, say nothing."
    if "map/share" in shot:
        first, second = 100 * shot["map/share"]
        caption = f"Across: {first:.0f}% of the variance of the features; up: {second:.0f}%."
    panels = []
    for name in [key.removeprefix("map/codes/") for key in shot if key.startswith("map/codes/")]:
        codes, words = shot[f"map/codes/{name}"], shot[f"map/words/{name}"]

        def draw(figure, theme, codes=codes, words=words):
            axes = figure.subplots()
            axes.set_aspect("equal", adjustable="datalim")
            axes.set_xticklabels([])
            axes.set_yticklabels([])
            # In random order, so that no class covers all others.
            order = np.random.default_rng(0).permutation(len(codes))
            for label, shade, of in named_colors(codes, words, theme.muted):
                rows = order[np.isin(codes[order], of)]
                axes.scatter(*shot["map/xy"][rows].T, s=16, linewidth=0, alpha=0.75, label=label, color=shade)
            columns = max(1, min(4, len(words), 64 // max(min(len(str(word)), LONGEST) for word in words)))
            figure.legend(
                loc="outside lower center", ncols=columns, fontsize=8, markerscale=1.8, handletextpad=0.1,
                columnspacing=0.9,
            )  # fmt: skip

        title = f"Colored by {name}"
        panels.append(draw_panel(folder, f"map_{place}_{name}", title, caption, draw, size=SIZE))
    return panels


def named_colors(codes: np.ndarray, words: Sequence[str], gray: str) -> list[tuple[str, str, list[int]]]:
    """(label, color, codes) of the groups drawn, the gray ones first and so below all others.

    The most common values, at most as many as there are colors, have one each; all others, and missing values, are
    gray: more colors than that cannot be told apart.
    """
    count = np.bincount(codes, minlength=len(words))
    values = [code for code, word in enumerate(words) if word not in UNNAMED]
    named = sorted(sorted(values, key=lambda code: -count[code])[: len(COLORS)])
    rest = [code for code in range(len(words)) if code not in named]
    label = str(words[rest[0]]) if len(rest) == 1 else f"{len(rest)} others"
    gray_part = [(label, gray, rest)] if rest else []
    return gray_part + [(str(words[code]), COLORS[place], [code]) for place, code in enumerate(named)]


# The figure of the suite shapes: how much of each factor the features of each series keep.


def factor_panels(series: Sequence[Series], folder: Path) -> list[Panel]:
    """One figure with a dot and its interval per factor and series; none where no run has factors."""
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
                axes.plot([x + shift] * 2, [100 * interval.low, 100 * interval.high], color=color(place))
                axes.plot(x + shift, 100 * interval.mean, "o", markersize=4, color=color(place))
        axes.axhline(0, color=theme.muted, linewidth=1)
        axes.set_xticks(places, [name.split("/")[1] for name in names], fontsize=9)
        axes.grid(axis="x", visible=False)
        axes.set_ylim(top=104)
        axes.yaxis.set_major_formatter("{x:.3g}%")

    caption = "0: no more than chance, 100%: a linear probe makes no error. Bars are 95% intervals."
    return [draw_panel(folder, "factors", "What the features keep of each factor", caption, draw)]


def _is_kept(name: str) -> bool:
    return name.startswith("factor/") and name.endswith("/kept")


# Single images in the report: nearest neighbors, and the worst errors with what they were taken for.


_RELATION = {SAME_LABEL: "same", SAME_GROUP: "kin", OTHER: "other"}
_ERRORS_WITH_ONE, _ERRORS_WITH_MANY = 12, 6  # of each series


def neighbor_gallery(series: Sequence[Series], folder: Path) -> list[dict]:
    """Queries with the neighbors that each series finds; series with the same query stand together."""
    queries: dict[tuple, dict] = {}
    for place, one in enumerate(series):
        shot = one.snapshot
        if shot is None or "query" not in shot:
            continue
        write_png(folder / f"neighbors_{place}.png", _sheet(shot), optimize=True)
        for number, query in enumerate(shot["query"]):
            key = (int(shot["gallery_rows"][query]), str(shot["gallery_captions"][query]))
            entry = queries.setdefault(key, {"tile": _tile(shot["gallery_images"][query], key[1]), "series": []})
            lines = {"hits": _hits(shot, "", number), "diverse": _hits(shot, "diverse/", number)}
            entry["series"].append({"name": one.name, "color": color(place)} | lines)
    return list(queries.values())


def _hits(shot: Mapping[str, np.ndarray], part: str, number: int) -> list[dict]:
    """Tiles of what is found for a query; none where the snapshot is older than the part."""
    if f"{part}neighbor" not in shot:
        return []
    found = (shot[f"{part}{name}"][number] for name in ("neighbor", "cosine", "relation"))
    return [
        _tile(shot["gallery_images"][row], str(shot["gallery_captions"][row]), f" ({similarity:.2f})")
        | {"relation": _RELATION[int(kind)]}
        for row, similarity, kind in zip(*found, strict=True)
    ]


def error_galleries(series: Sequence[Series]) -> list[dict]:
    """The worst errors of each series whose snapshot has some."""
    able = [(place, one) for place, one in enumerate(series) if one.snapshot and "errors/images" in one.snapshot]
    count = _ERRORS_WITH_ONE if len(able) == 1 else _ERRORS_WITH_MANY
    galleries = []
    for place, one in able:
        shot = one.snapshot
        errors = []
        for row, (images, captions) in enumerate(zip(shot["errors/images"][:count], shot["errors/captions"])):
            tiles = [_tile(image, str(caption)) for image, caption in zip(images, captions, strict=True)]
            errors.append(
                {
                    "tile": tiles[0],
                    "evidence": tiles[1:],
                    "truth": str(shot["errors/truth"][row]),
                    "predicted": str(shot["errors/predicted"][row]),
                    "share": f"{shot['errors/share'][row]:.0%}",
                    "truth_share": f"{shot['errors/truth_share'][row]:.0%}",
                }
            )
        target = str(shot["errors/target"])
        name = "class" if target == "label" else target
        galleries.append({"name": one.name, "color": color(place), "target": name, "errors": errors})
    return galleries


def _tile(image: np.ndarray, caption: str, more: str = "") -> dict:
    return {"image": image_uri(image), "caption": caption, "title": caption + more}


def _sheet(shot: Mapping[str, np.ndarray], gap: int = 4) -> Image.Image:
    """One sheet of all queries (left, apart) and their neighbors."""
    images = shot["gallery_images"]
    high, wide = images.shape[1] + gap, images.shape[2] + gap
    rows, columns = shot["neighbor"].shape
    sheet = np.full((rows * high + gap, (columns + 1) * wide + 4 * gap, 3), 255, np.uint8)
    for line, (query, found) in enumerate(zip(shot["query"], shot["neighbor"], strict=True)):
        for place, row in enumerate([query, *found]):
            x = gap + place * wide + (3 * gap if place else 0)
            sheet[gap + line * high :][: high - gap, x : x + wide - gap] = images[row]
    return Image.fromarray(sheet)

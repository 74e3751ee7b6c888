"""The generated half of docs/objectives.md: the table of all objectives and a figure of their target graphs.

python -m scripts.objectives_page docs/objectives.md
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from xsample_jax.data.sources import open_source
from xsample_jax.graphs.targets import Graph, Mixture, describe, target
from xsample_jax.objectives.objective import Preset
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.registry import name_of, options_of
from xsample_jax.reports.caption_graph import draw_graph
from xsample_jax.reports.style import check_figures, check_markers, insert, write_png
from xsample_jax.tools.cli import run_cli

# Graphs of the figure: title, graph, tau_s.
SHOWN = (
    ("identity: SimCLR, CLIP", Graph("identity"), 0.1),
    ("label: SupCon", Graph("label"), 0.1),
    ("0.9 identity + 0.1 uniform: ALIGN", Mixture((Graph("identity"), Graph("uniform")), (0.9, 0.1)), 0.1),
    ("softmax(caption / 0.1): X-CLR", Graph("caption", "softmax"), 0.1),
    ("softmax(hierarchy / 0.1)", Graph("hierarchy", "softmax"), 0.1),
    ("caption, tau_s for 8 neighbors", Graph("caption", "softmax"), {"name": "neighbors", "count": 8.0}),
)
IMAGES, VIEWS = 40, 2


def table() -> str:
    """One row per preset."""
    head = "| name | loss | target graph | denominator | tau | needs | source | golden |"
    return "\n".join([head, "|---" * 8 + "|", *(_row(name, preset) for name, preset in sorted(PRESETS.items()))])


def _row(name: str, preset: Preset) -> str:
    objective = preset.objective
    graphs = _distinct(describe(term.graph) for term in objective.terms)
    forms = _distinct(_denominator(term) for term in objective.terms)
    features = _distinct(name_of(term.name) for term in objective.feature_terms)
    tau = f"{objective.temperature:g}" + (", learned" if objective.learn_temperature else "")
    needs = [
        "images only" if not objective.requires - {"index"} else ", ".join(sorted(objective.requires - {"index"})),
        *(["EMA encoder"] if objective.teacher is not None and not objective.by_task else []),
        *(["encoder of before the task"] if objective.by_task else []),
        *([f"{len(objective.heads)} named heads"] if objective.heads else []),
        *(["network of pairs"] if objective.pair_network is not None else []),
        *(["a finished run"] if objective.frozen else []),
        *(["queue"] if objective.queue else []),
        *(["prototypes"] if objective.prototypes else []),
        *(["small crops"] if objective.local_views else []),
        *(["a number per image"] if objective.memory else []),
    ]
    cells = [
        f"`{name}`",
        preset.formula,
        "; ".join(graphs) or "-",
        "; ".join([*forms, *features]),
        tau if objective.terms else "-",
        "; ".join(needs),
        preset.source,
        "yes" if preset.golden else "no",
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _denominator(term) -> str:
    if name_of(term.link) != "softmax":
        return f"{name_of(term.link)} link"
    negatives = "" if term.negatives == "everything" else f", {_word(term.negatives)}"
    return _word(term.denominator) + negatives + (", in" if term.aggregate == "in" else "")


def _word(choice) -> str:
    options = " ".join(str(value) for value in options_of(choice).values())
    return name_of(choice) + (f" {options}" if options else "")


def _distinct(words) -> list[str]:
    return list(dict.fromkeys(words))


def draw(path: Path) -> None:
    """Draws the target graphs of one batch of emoji: what each objective asks for."""
    source = open_source(_Emoji, "train")
    records = [source[i] for i in _pairs([source[i]["label"] for i in range(len(source))])]
    names = source.manifest.attributes["group"]
    side = {
        "id": [record["id"] for record in records],
        "label": [record["label"] for record in records],
        "path": [
            (record["attributes"]["group"], record["attributes"]["subgroup"], record["label"]) for record in records
        ],
        "caption_embedding": [record["caption_embeddings"][0] for record in records],
    }
    rows = {name: jnp.repeat(jnp.asarray(np.array(value)), VIEWS, axis=0) for name, value in side.items()}
    groups = np.repeat([names[record["attributes"]["group"]] for record in records], VIEWS)
    valid = ~np.eye(IMAGES * VIEWS, dtype=bool)
    figure = Figure(figsize=(13, 8.4), dpi=110, layout="constrained")
    for number, (axes, (title, graph, tau_s)) in enumerate(zip(figure.subplots(2, 3).flat, SHOWN, strict=True)):
        image = draw_graph(axes, np.asarray(target(graph, rows, rows, jnp.asarray(valid), tau_s)), groups)
        axes.set_title(title, fontsize=11)
        if number % 3:
            axes.set_yticks([])
    figure.colorbar(image, ax=figure.axes, shrink=0.6, label="target probability")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    write_png(path, Image.fromarray(np.asarray(canvas.buffer_rgba())))


def _pairs(labels: list[int]) -> list[int]:
    """Indices of two drawings each of IMAGES / 2 classes, spread over the set."""
    seen: dict[int, int] = {}
    pairs: dict[int, tuple[int, int]] = {}
    for index, label in enumerate(labels):
        if label in seen:
            pairs.setdefault(label, (seen[label], index))
        seen.setdefault(label, index)
    chosen = [sorted(pairs)[int(place)] for place in np.linspace(0, len(pairs) - 1, IMAGES // 2)]
    return [index for label in chosen for index in pairs[label]]


class _Emoji:
    source, path, fingerprint, label = "emoji", None, None, None


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.objectives_page", description=__doc__)
    parser.add_argument("page", type=Path, help="page with the <!-- presets --> markers; its figure goes beside it")
    page = parser.parse_args(arguments).page
    check_markers(page, "presets")
    check_figures(page, [page.stem], "page")
    insert(page, "presets", table())
    draw(page.with_suffix(".png"))


if __name__ == "__main__":
    sys.exit(run_cli(main))

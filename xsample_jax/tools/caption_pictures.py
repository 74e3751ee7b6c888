"""The figures and picture cards of tools.inspect."""

import collections
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from xsample_jax.data.caption_sample import CaptionSample
from xsample_jax.data.decode import decode_record
from xsample_jax.data.record_reader import RecordSource
from xsample_jax.graphs.caption_advice import MASSES, TOO_ORDINARY, Choice
from xsample_jax.graphs.caption_graph import BINS, ORDINARY, chain
from xsample_jax.graphs.inspect import draw_graph
from xsample_jax.tools.figure_style import COLOURS, Picture, picture
from xsample_jax.tools.page import image_uri

SIDE = 72  # pixels of a picture on the page
DRAWN = 192  # images of the batch whose target is drawn
MASS_NAMES = ("own views", "alike captions", "same caption", "ordinary pairs")
MASS_COLOURS = (COLOURS[1], COLOURS[2], COLOURS[4], COLOURS[0])


def histogram_picture(counts: np.ndarray, ordinary: float, folder: Path) -> Picture:
    """Share of pairs against their cosine, on a logarithmic scale: what matters is the thin right end."""
    cosines = (np.arange(BINS) + 0.5) * 2 / BINS - 1
    width = 10  # bins drawn as one
    shares = counts.reshape(-1, width).sum(axis=1) / counts.sum()
    centres = cosines.reshape(-1, width).mean(axis=1)

    def draw(figure, theme):
        axes = figure.subplots()
        kept = shares > 0
        axes.bar(centres[kept], shares[kept], width=2 * width / BINS, color=COLOURS[1])
        axes.set_yscale("log")
        axes.axvline(ordinary, color=theme.ink, linestyle=":", zorder=3)
        axes.set_xlabel("cosine of two captions")

    caption = f"Share of pairs, on a logarithmic scale. Left of the dotted line are {ORDINARY:.0%} of all pairs."
    return picture(folder, "similarities", "How alike captions are", caption, draw)


def curve_pictures(
    curves: Mapping[int, Mapping[str, np.ndarray]], temperatures: np.ndarray, tau_s: float, folder: Path
) -> list[Picture]:
    """Entropy and effective neighbours against tau_s, a line for every batch size."""
    panels = (
        ("entropy", "Target entropy against τₛ", "In nats: 0 is one positive per row."),
        (
            "effective_neighbours",
            "Effective neighbours against τₛ",
            "exp(entropy) of a target row: how many of the batch's rows count as positives.",
        ),
    )
    pictures = []
    for key, title, caption in panels:

        def draw(figure, theme, key=key):
            axes = figure.subplots()
            for place, (size, found) in enumerate(curves.items()):
                axes.plot(temperatures, found[key], color=COLOURS[place % len(COLOURS)], label=f"{size:,} images")
            _tau_axis(axes, tau_s, theme)
            if key == "effective_neighbours":
                axes.set_yscale("log")
            axes.legend(fontsize=9)

        caption += " The larger the batch, the more there is to spread over; dotted: the τₛ looked at."
        pictures.append(picture(folder, f"{key}_against_tau", title, caption, draw))
    return pictures


def mass_picture(curves: Mapping[str, np.ndarray], temperatures: np.ndarray, tau_s: float, folder: Path) -> Picture:
    """Where the target's mass lies, stacked, against tau_s."""

    def draw(figure, theme):
        axes = figure.subplots()
        axes.stackplot(temperatures, [curves[name] for name in MASSES], colors=MASS_COLOURS, labels=MASS_NAMES)
        _tau_axis(axes, tau_s, theme)
        axes.set_ylim(0, 1)
        axes.legend(fontsize=8, loc="lower left", frameon=True, facecolor=theme.ground, edgecolor=theme.line)

    caption = "Left: plain self-supervision. Right, in red: images that have nothing to do with each other."
    return picture(folder, "masses_against_tau", "Where the target lies, against τₛ", caption, draw)


def target_pictures(
    embedding: np.ndarray, tau_s: float, limit: Choice | None, views: int, folder: Path
) -> list[Picture]:
    """The target of one batch at the tau_s looked at and at the softest that the advice allows."""
    rows = np.random.default_rng(0).permutation(len(embedding))[:DRAWN]
    similarity = embedding[rows] @ embedding[rows].T
    similarity = similarity[np.ix_(*[chain(similarity)] * 2)]
    wanted = {"looked_at": (tau_s, "the τₛ looked at")}
    if limit is not None and abs(np.log(limit.tau_s / tau_s)) > 0.05:
        wanted["softest"] = (limit.tau_s, f"at most {TOO_ORDINARY:.0%} on ordinary pairs, at the whole batch size")
    pictures = []
    for name, (tau, words) in wanted.items():
        target = _folded_target(similarity, tau, views)

        def draw(figure, theme, target=target):
            axes = figure.subplots()
            axes.grid(False)
            axes.spines[:].set_visible(False)
            image = draw_graph(axes, target, np.zeros(len(target)), ink="white")
            axes.set_yticks([])
            bar = figure.colorbar(image, ax=axes, shrink=0.9, aspect=28, pad=0.02)
            bar.outline.set_visible(False)
            bar.ax.tick_params(labelsize=9)
            bar.ax.minorticks_off()

        title = f"Target of {len(target)} images, τₛ = {tau:.3g}"
        caption = f"{words[0].upper()}{words[1:]}. Rows in an order in which neighbours are alike; logarithmic."
        pictures.append(picture(folder, f"target_{name}", title, caption, draw, fit=True))
    return pictures


def _folded_target(similarity: np.ndarray, tau_s: float, views: int) -> np.ndarray:
    """softmax(similarity / tau_s) with `views` of each image, self left out, views folded: [n, n]."""
    copies = np.full(similarity.shape, float(views))
    np.fill_diagonal(copies, views - 1)
    weights = copies * np.exp((similarity - similarity.max(axis=1, keepdims=True)) / tau_s)
    return weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-30)


def _tau_axis(axes, tau_s: float, theme) -> None:
    axes.set_xscale("log")
    ticks = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(ticks[0], ticks[-1])
    axes.set_xlabel("τₛ")
    axes.axvline(tau_s, color=theme.ink, linestyle=":", linewidth=1.2)


def pair_cards(source: RecordSource, sample: CaptionSample, pairs: Sequence[tuple[int, int, float]]) -> list[dict]:
    """Pictures and captions of pairs of rows of the sample, with their cosine."""
    return [
        {"cosine": f"{cosine:.2f}", "sides": [_tile(source, sample, row) for row in (i, k)]} for i, k, cosine in pairs
    ]


def duplicate_groups(source: RecordSource, sample: CaptionSample, count: int = 8, shown: int = 6) -> list[dict]:
    """The captions that most records of the sample share, with some of their pictures."""
    rows = collections.defaultdict(list)
    for row, caption in enumerate(sample.captions):
        rows[caption].append(row)
    common = sorted((caption for caption in rows if len(rows[caption]) > 1), key=lambda c: (-len(rows[c]), c))[:count]
    return [
        {
            "caption": caption or "(empty)",
            "count": len(rows[caption]),
            "tiles": [_tile(source, sample, row) for row in rows[caption][:shown]],
        }
        for caption in common
    ]


def _tile(source: RecordSource, sample: CaptionSample, row: int) -> dict:
    record = source[int(sample.index[row])]
    caption = sample.captions[row]
    return {
        "image": image_uri(decode_record(record, SIDE, 3)),
        "caption": caption,
        "title": f"{caption} (id {record['id']})",
    }

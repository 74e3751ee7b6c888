"""The page of tools.inspect: a caption graph before anything is trained, with its figures and image cards.

Of a trained run, it prints what the gradient of an embedding looks like (gradient_lines).
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from xsample_jax.augment.views import make_views
from xsample_jax.data.class_texts import load_class_embeddings
from xsample_jax.data.dataset import open_evaluated
from xsample_jax.data.decode import decode_record
from xsample_jax.data.records import RecordSource, unit_rows
from xsample_jax.data.sources import open_source, source_folder, spread_places
from xsample_jax.data.vectors import draw_vectors, is_vector, vector_bytes
from xsample_jax.errors import DataError
from xsample_jax.evals.evaluate import load_model, read_config
from xsample_jax.io.checkpoint_files import find_checkpoint
from xsample_jax.io.files import parse_npy
from xsample_jax.objectives.learned_state import temperature_of
from xsample_jax.reports import caption_graph
from xsample_jax.reports.caption_advice import (
    MASSES,
    TOO_ORDINARY,
    Choice,
    advise,
    advise_on_confused,
    choice_at,
    choices,
    softest,
)
from xsample_jax.reports.caption_graph import BINS, ORDINARY, CaptionSample, chain, draw_graph, read_sample
from xsample_jax.reports.style import COLORS, FITTED, Panel, draw_panel, figures_folder, image_uri, write_page

SIDE = 72  # pixels of an image on the page
DRAWN = 192  # images of the batch whose target is drawn
MASS_NAMES = ("own views", "alike captions", "same caption", "ordinary pairs")
MASS_COLORS = (COLORS[1], COLORS[2], COLORS[4], COLORS[0])


def histogram_panel(counts: np.ndarray, ordinary: float, folder: Path) -> Panel:
    """Share of pairs against their cosine, on a logarithmic scale: what matters is the thin right end."""
    cosines = (np.arange(BINS) + 0.5) * 2 / BINS - 1
    width = 10  # bins drawn as one
    shares = counts.reshape(-1, width).sum(axis=1) / counts.sum()
    centers = cosines.reshape(-1, width).mean(axis=1)

    def draw(figure, theme):
        axes = figure.subplots()
        kept = shares > 0
        axes.bar(centers[kept], shares[kept], width=2 * width / BINS, color=COLORS[1])
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")  # not mathtext, which is off
        axes.axvline(ordinary, color=theme.ink, linestyle=":", zorder=3)
        axes.set_xlabel("cosine of two captions")

    caption = f"Share of pairs, on a logarithmic scale. Left of the dotted line are {ORDINARY:.0%} of all pairs."
    return draw_panel(folder, "similarities", "How alike captions are", caption, draw)


def curve_panels(
    curves: Mapping[int, Mapping[str, np.ndarray]], temperatures: np.ndarray, tau_s: float, folder: Path
) -> list[Panel]:
    """Entropy and effective neighbors against tau_s, a line for every batch size."""
    wanted = (
        ("entropy", "Target entropy against τₛ", "In nats: 0 is one positive per row."),
        (
            "effective_neighbors",
            "Effective neighbors against τₛ",
            "exp(entropy) of a target row: how many of the batch's rows count as positives.",
        ),
    )
    panels = []
    for key, title, caption in wanted:

        def draw(figure, theme, key=key):
            axes = figure.subplots()
            for place, (size, found) in enumerate(curves.items()):
                axes.plot(temperatures, found[key], color=COLORS[place % len(COLORS)], label=f"{size:,} images")
            _tau_axis(axes, tau_s, theme)
            if key == "effective_neighbors":
                axes.set_yscale("log")
                axes.yaxis.set_major_formatter("{x:g}")  # not mathtext, which is off
            axes.legend(fontsize=9)

        caption += " The larger the batch, the more there is to spread over; dotted: the τₛ looked at."
        panels.append(draw_panel(folder, f"{key}_against_tau", title, caption, draw))
    return panels


def mass_panel(curves: Mapping[str, np.ndarray], temperatures: np.ndarray, tau_s: float, folder: Path) -> Panel:
    """Where the target's mass is, stacked, against tau_s."""

    def draw(figure, theme):
        axes = figure.subplots()
        axes.stackplot(temperatures, [curves[name] for name in MASSES], colors=MASS_COLORS, labels=MASS_NAMES)
        _tau_axis(axes, tau_s, theme)
        axes.set_ylim(0, 1)
        axes.legend(fontsize=8, loc="lower left", frameon=True, facecolor=theme.ground, edgecolor=theme.line)

    caption = "Left: plain self-supervision. Right, in red: images that have nothing to do with each other."
    return draw_panel(folder, "masses_against_tau", "Where the target's mass is, against τₛ", caption, draw)


def target_panels(embedding: np.ndarray, tau_s: float, limit: Choice | None, views: int, folder: Path) -> list[Panel]:
    """The target of one batch at the tau_s looked at and at the softest that the advice allows."""
    rows = np.random.default_rng(0).permutation(len(embedding))[:DRAWN]
    similarity = embedding[rows] @ embedding[rows].T
    similarity = similarity[np.ix_(*[chain(similarity)] * 2)]
    wanted = {"looked_at": (tau_s, "the τₛ looked at")}
    if limit is not None and abs(np.log(limit.tau_s / tau_s)) > 0.05:
        wanted["softest"] = (limit.tau_s, f"at most {TOO_ORDINARY:.0%} on ordinary pairs, at the whole batch size")
    panels = []
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
        caption = f"{words[0].upper()}{words[1:]}. Rows in an order in which neighbors are alike; logarithmic."
        panels.append(draw_panel(folder, f"target_{name}", title, caption, draw, size=FITTED))
    return panels


def _folded_target(similarity: np.ndarray, tau_s: float, views: int) -> np.ndarray:
    """softmax(similarity / tau_s) with `views` of each image, self left out, views folded: [n, n]."""
    copies = np.full(similarity.shape, float(views))
    np.fill_diagonal(copies, views - 1)
    weights = copies * np.exp((similarity - similarity.max(axis=1, keepdims=True)) / tau_s)
    return weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-30)


def _tau_axis(axes, tau_s: float, theme) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    ticks = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(ticks[0], ticks[-1])
    axes.set_xlabel("τₛ")
    axes.axvline(tau_s, color=theme.ink, linestyle=":", linewidth=1.2)


def pair_cards(source: RecordSource, sample: CaptionSample, pairs: Sequence[tuple[int, int, float]]) -> list[dict]:
    """Images and captions of pairs of rows of the sample, with their cosine."""
    return [
        {"cosine": f"{cosine:.2f}", "sides": [_tile(source, sample, row) for row in (i, k)]} for i, k, cosine in pairs
    ]


def duplicate_groups(source: RecordSource, sample: CaptionSample, count: int = 8, shown: int = 6) -> list[dict]:
    """The captions that most records of the sample share, with some of their images."""
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
        "image": image_uri(_image_of(record)),
        "caption": caption,
        "title": f"{caption} (id {record['id']})",
    }


def _image_of(record: dict) -> np.ndarray:
    """uint8 [s, s, 3] of a record; a vector is drawn."""
    if not is_vector(record["image"]):
        return decode_record(record, SIDE, 3)
    vector = parse_npy(record["image"])
    return draw_vectors(vector_bytes(vector, len(vector))[None])[0]


PAPER_TAU_S = 0.1
TEMPERATURES = np.geomspace(0.01, 1.0, 60)
LEVELS = (1 - 1e-4, 0.999, 0.99, 0.95, 0.75, 0.5, 0.05)


@dataclasses.dataclass(frozen=True)
class Question:
    """What is looked at: the data section of a config, and how a run would read it."""

    data: object
    split: str
    caption: str
    batch_size: int
    views: int
    tau_s: float
    center: bool
    classes: bool


@dataclasses.dataclass(frozen=True)
class Graph:
    """The caption graph of a sample, measured.

    Attributes:
      embedding: float32 [n, E], unit rows, centered where that was asked.
      batch_size: images of a batch, at most those of the sample.
      counts: of the cosines of all pairs (caption_graph.histogram); ordinary: the cosine that 19 of 20 pairs are below.
      curves: by batch size, against TEMPERATURES (caption_graph.target_curves).
    """

    embedding: np.ndarray
    batch_size: int
    counts: np.ndarray
    ordinary: float
    curves: Mapping[int, Mapping[str, np.ndarray]]

    @property
    def own(self) -> Mapping[str, np.ndarray]:
        """The curves at the batch size of the run."""
        return self.curves[self.batch_size]


def measure(asked: Question, sample: CaptionSample, seed: int) -> Graph:
    """Measures the graph that the captions of a sample ask for."""
    embedding = sample.embedding
    if asked.center:
        embedding = unit_rows(embedding - embedding.mean(axis=0))
    batch_size = min(asked.batch_size, len(sample))
    others = {size for size in (batch_size // 4, 4 * batch_size) if 8 <= size <= len(sample)}
    counts = caption_graph.histogram(embedding)
    ordinary = caption_graph.quantile(counts, caption_graph.ORDINARY)
    curves = {
        size: caption_graph.target_curves(embedding, size, TEMPERATURES, asked.views, ordinary, seed)
        for size in sorted({batch_size, *others})
    }
    return Graph(embedding, batch_size, counts, ordinary, curves)


def inspect(asked: Question, out: Path, count: int, seed: int = 0) -> list[str]:
    """Writes the page; returns what the terminal should say."""
    source = open_source(asked.data, asked.split)
    texts = load_class_embeddings(source_folder(asked.data), source) if asked.classes else None
    sample = read_sample(source, asked.caption, count, seed, texts)
    if len(sample) < 16:
        raise DataError("records with an embedding", len(sample), "at least 16, to look at a graph")
    graph = measure(asked, sample, seed)
    now, limit = choice_at(graph.own, TEMPERATURES, asked.tau_s), softest(graph.own, TEMPERATURES)
    same = caption_graph.same_caption_share(graph.embedding) * (graph.batch_size - 1)
    spread = caption_graph.quantile(graph.counts, 0.99) - caption_graph.quantile(graph.counts, 0.01)
    own = (source.manifest.text_encoder or {}).get("per") == "record"  # vectors that captions have no part in
    confused = 0 if asked.classes or own else len(caption_graph.one_vector(sample.embedding, sample.captions))
    advice = [*advise(now, limit, spread, same, graph.batch_size, sample.without), *advise_on_confused(confused)]
    facts = _facts(asked, source, sample, graph)
    write_page(
        "inspect.html",
        out,
        name=source.manifest.name,
        facts=facts,
        whole=len(sample) == sample.total,
        cut=asked.batch_size > len(sample),
        advice=advice,
        now=now,
        choices=choices(graph.own, TEMPERATURES, graph.batch_size * asked.views),
        batch_size=graph.batch_size,
        figures=_figures(asked, graph, limit, figures_folder(out)),
        steps=[
            {"share": share, "pairs": pair_cards(source, sample, pairs)}
            for share, pairs in caption_graph.ladder(graph.embedding, sample.captions, LEVELS, seed=seed)
        ],
        closest=pair_cards(source, sample, caption_graph.closest_pairs(graph.embedding, sample.captions)),
        duplicates=duplicate_groups(source, sample),
    )
    return [
        *(f"{name}: {fact}" for name, fact in facts.items()),
        *(f"{item.level}: {item.text}" for item in advice),
        str(out),
    ]


def _facts(asked: Question, source: RecordSource, sample: CaptionSample, graph: Graph) -> dict[str, str]:
    """What was looked at, in words by their titles."""
    encoder = "of the class texts" if asked.classes else (source.manifest.text_encoder or {}).get("name", "not named")
    kind = "class texts" if asked.classes else f"data.caption = {asked.caption}"
    sampled = f"{len(sample):,} random records of {sample.total:,}" if len(sample) < sample.total else "all records"
    return {
        "Set": f"{source.manifest.name}, split {asked.split}, {sample.total:,} records",
        "Looked at": sampled,
        "Captions": f"{kind}; {len(set(sample.captions)):,} different ones",
        "Text encoder": f"{encoder}, {graph.embedding.shape[1]} numbers{', centered' if asked.center else ''}",
        "Batch": f"{graph.batch_size:,} images × {asked.views} views",
        "tau_s": f"{asked.tau_s:g}",
        "Cosine of random pairs": f"median {caption_graph.quantile(graph.counts, 0.5):.2f}; "
        f"19 of 20 below {graph.ordinary:.2f}; 999 of 1,000 below {caption_graph.quantile(graph.counts, 0.999):.2f}",
        "Fingerprint": source.manifest.fingerprint[:16],
    }


def _figures(asked: Question, graph: Graph, limit: Choice | None, folder: Path) -> list[Panel]:
    return [
        histogram_panel(graph.counts, graph.ordinary, folder),
        *curve_panels(graph.curves, TEMPERATURES, asked.tau_s, folder),
        mass_panel(graph.own, TEMPERATURES, asked.tau_s, folder),
        *target_panels(graph.embedding, asked.tau_s, limit, asked.views, folder),
    ]


# What the gradient of an embedding looks like on one batch of a run: its weights and its direction (arXiv 2510.14824).
#
# The gradient of a row z_i is sum_k w_ik y_k / tau: w says how strongly each key pulls or pushes, the keys say where
# to. For the same logits both are computed for the softmax, w = p - T, and for the sigmoid, w = sigmoid(S) - T.


IMAGES = 256  # of the batch


def weights_and_directions(z: np.ndarray, keys: np.ndarray, tau: float, compete: bool) -> dict[str, np.ndarray]:
    """Numbers of every row of z [B, D] against keys [B, D] of which its own is the positive, float64 [B] each.

    Args:
      compete: the softmax over all keys; else a sigmoid of every pair.

    Returns:
      positive: 1 - p of the own key; negative: mean p of the others; top: the largest of them; norm: length of the
      gradient of the row's loss; cosine: of the step against that gradient with the positive key.
    """
    z, keys = np.asarray(z, np.float64), np.asarray(keys, np.float64)
    logits, own = z @ keys.T / tau, np.eye(len(z), dtype=bool)
    if compete:
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
    else:
        p = np.exp(-np.logaddexp(0, -logits))
    gradient = (p - own) @ keys / tau
    norm = np.linalg.norm(gradient, axis=1)
    others = np.where(own, 0.0, p)
    along = -np.sum(gradient * keys, axis=1) / np.maximum(norm * np.linalg.norm(keys, axis=1), 1e-300)
    return {
        "positive": 1 - p[own],
        "negative": others.sum(axis=1) / max(len(z) - 1, 1),
        "top": others.max(axis=1),
        "norm": norm,
        "cosine": along,
    }


def gradient_lines(run: str | Path) -> list[str]:
    """Lines of text about two random views of up to 256 images of eval.split, at the temperature of the run."""
    where = find_checkpoint(run)
    loaded = load_model(*where, read_config(*where))
    parts, state = loaded.parts, loaded.state.averaged()
    config = parts.config
    examples = open_evaluated(config, config.eval.split)
    some = [examples[int(place)] for place in spread_places(len(examples), IMAGES)]
    images, ids = (np.stack([example[name] for example in some]) for name in ("image", "id"))

    def embed(state, images, ids):
        views = make_views(images, ids, config.seed, 0, config.augment, 2)
        return parts.model.merge(state.params, state.statistics, training=False).embed(views)[1]

    z = np.asarray(jax.jit(embed)(state, images, ids))
    tau = float(temperature_of(parts.objective, state.params))
    of = f"two views of {len(some)} images of split {config.eval.split}, tau {tau:.4g}"
    lines = [f"gradient at step {loaded.step}: {of}"]
    for name, compete in (("softmax", True), ("sigmoid", False)):
        mean = {key: values.mean() for key, values in weights_and_directions(z[::2], z[1::2], tau, compete).items()}
        lines.append(
            f"  {name}: weight of the positive {mean['positive']:.3g}, of a negative {mean['negative']:.3g}, "
            f"of the largest {mean['top']:.3g}; cosine of the step with the positive {mean['cosine']:.3f}"
        )
    return lines

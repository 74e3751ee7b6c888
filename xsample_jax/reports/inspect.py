"""Looks at the caption graph of a data set before anything is trained: how alike captions are, and which tau_s fits.

    python -m xsample_jax.tools.inspect --data=emoji --out=inspect.html
    python -m xsample_jax.tools.inspect --data=data/cc3m --batch_size=1024
    python -m xsample_jax.tools.inspect --data=configs/cc3m.py --config.data.path=data/cc3m

Of a large set it reads a sample (--sample), and says so. Writes one page and its figures as PNG beside it. With a
config, split, caption, batch size, views and tau_s are those of the run.
"""

import argparse
import collections
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from xsample_jax.config import default_config, load_config, split_overrides
from xsample_jax.data.class_texts import load_class_embeddings
from xsample_jax.data.decode import decode_record
from xsample_jax.data.records import RecordSource, unit_rows
from xsample_jax.data.sources import open_source, source_folder
from xsample_jax.errors import DataError
from xsample_jax.io.paths import local_copy_of
from xsample_jax.objectives.from_config import build_objective, reads_target_temperature
from xsample_jax.reports import caption_graph
from xsample_jax.reports.caption_graph import (
    BINS,
    MASSES,
    ORDINARY,
    TOO_ORDINARY,
    CaptionSample,
    Choice,
    advise,
    chain,
    choice_at,
    choices,
    draw_graph,
    read_sample,
    softest,
)
from xsample_jax.reports.style import COLORS, Picture, figures_folder, image_uri, picture, write_page
from xsample_jax.tools.cli import run_cli

# The figures and picture cards of tools.inspect.


SIDE = 72  # pixels of a picture on the page
DRAWN = 192  # images of the batch whose target is drawn
MASS_NAMES = ("own views", "alike captions", "same caption", "ordinary pairs")
MASS_COLORS = (COLORS[1], COLORS[2], COLORS[4], COLORS[0])


def histogram_picture(counts: np.ndarray, ordinary: float, folder: Path) -> Picture:
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
    return picture(folder, "similarities", "How alike captions are", caption, draw)


def curve_pictures(
    curves: Mapping[int, Mapping[str, np.ndarray]], temperatures: np.ndarray, tau_s: float, folder: Path
) -> list[Picture]:
    """Entropy and effective neighbors against tau_s, a line for every batch size."""
    panels = (
        ("entropy", "Target entropy against τₛ", "In nats: 0 is one positive per row."),
        (
            "effective_neighbors",
            "Effective neighbors against τₛ",
            "exp(entropy) of a target row: how many of the batch's rows count as positives.",
        ),
    )
    pictures = []
    for key, title, caption in panels:

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
        pictures.append(picture(folder, f"{key}_against_tau", title, caption, draw))
    return pictures


def mass_picture(curves: Mapping[str, np.ndarray], temperatures: np.ndarray, tau_s: float, folder: Path) -> Picture:
    """Where the target's mass lies, stacked, against tau_s."""

    def draw(figure, theme):
        axes = figure.subplots()
        axes.stackplot(temperatures, [curves[name] for name in MASSES], colors=MASS_COLORS, labels=MASS_NAMES)
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
        caption = f"{words[0].upper()}{words[1:]}. Rows in an order in which neighbors are alike; logarithmic."
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
    axes.xaxis.set_major_formatter("{x:g}")
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


PAPER_TAU_S = 0.1
TEMPERATURES = np.geomspace(0.01, 1.0, 60)
BOUNDS = {
    "batch_size": (1, 2**24),
    "views": (1, 64),
    "tau_s": (1e-4, 1e4),
    "sample": (1, 2**24),
    "seed": (0, 2**32 - 1),
}
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


def question(flags: argparse.Namespace, overrides: list[str]) -> Question:
    """Reads --data: a config file, the name emoji, or the folder of a record set; flags win over the config."""
    if ".py" in flags.data:
        config = load_config(flags.data, overrides)
        objective = build_objective(config.objective)
        tau_s, classes = objective.target_temperature, "class_embedding" in objective.requires
        if not reads_target_temperature(objective) or not isinstance(tau_s, float):
            tau_s = PAPER_TAU_S  # no softmax, or a rule that chooses it
    else:
        if overrides:
            raise DataError("--config", overrides[0], "nothing, unless --data is a config file", "Leave it out.")
        config, tau_s, classes = default_config(), PAPER_TAU_S, False
        config.data.update({"source": "emoji"} if flags.data == "emoji" else {"source": "records", "path": flags.data})
    return Question(
        config.data,
        flags.split or config.data.split,
        flags.caption or config.data.caption,
        flags.batch_size or config.batch_size,
        flags.views or config.views,
        flags.tau_s or tau_s,
        flags.center or config.objective.center,
        flags.classes or classes,
    )


def inspect(asked: Question, out: Path, count: int, seed: int = 0) -> list[str]:
    """Writes the page; returns what the terminal should say."""
    source = open_source(asked.data, asked.split)
    texts = load_class_embeddings(source_folder(asked.data), source) if asked.classes else None
    sample = read_sample(source, asked.caption, count, seed, texts)
    if len(sample) < 16:
        raise DataError("records with an embedding", len(sample), "at least 16, to look at a graph")
    embedding = sample.embedding
    confused = 0 if asked.classes else len(caption_graph.one_vector(embedding, sample.captions))
    if asked.center:
        embedding = unit_rows(embedding - embedding.mean(axis=0))
    batch_size = min(asked.batch_size, len(sample))
    others = {size for size in (batch_size // 4, 4 * batch_size) if 8 <= size <= len(sample)}
    sizes = sorted({batch_size, *others})

    counts = caption_graph.histogram(embedding)
    ordinary = caption_graph.quantile(counts, caption_graph.ORDINARY)
    curves = {
        size: caption_graph.target_curves(embedding, size, TEMPERATURES, asked.views, ordinary, seed) for size in sizes
    }
    own = curves[batch_size]
    now, limit = choice_at(own, TEMPERATURES, asked.tau_s), softest(own, TEMPERATURES)
    same = caption_graph.same_caption_share(embedding)
    spread = caption_graph.quantile(counts, 0.99) - caption_graph.quantile(counts, 0.01)
    advice = advise(now, limit, spread, same * (batch_size - 1), batch_size, sample.without, confused)

    folder = figures_folder(out)
    encoder = (source.manifest.text_encoder or {}).get("name", "not named") if texts is None else "of the class texts"
    kind = "class texts" if asked.classes else f"data.caption = {asked.caption}"
    sampled = f"{len(sample):,} random records of {sample.total:,}" if len(sample) < sample.total else "all records"
    facts = {
        "Set": f"{source.manifest.name}, split {asked.split}, {sample.total:,} records",
        "Looked at": sampled,
        "Captions": f"{kind}; {len(set(sample.captions)):,} different ones",
        "Text encoder": f"{encoder}, {embedding.shape[1]} numbers{', centered' if asked.center else ''}",
        "Batch": f"{batch_size:,} images × {asked.views} views",
        "tau_s": f"{asked.tau_s:g}",
        "Cosine of random pairs": f"median {caption_graph.quantile(counts, 0.5):.2f}; "
        f"19 of 20 below {ordinary:.2f}; 999 of 1,000 below {caption_graph.quantile(counts, 0.999):.2f}",
        "Fingerprint": source.manifest.fingerprint[:16],
    }
    write_page(
        "inspect.html",
        out,
        name=source.manifest.name,
        facts=facts,
        whole=len(sample) == sample.total,
        cut=asked.batch_size > len(sample),
        advice=advice,
        now=now,
        choices=choices(own, TEMPERATURES, batch_size * asked.views),
        batch_size=batch_size,
        figures=[
            histogram_picture(counts, ordinary, folder),
            *curve_pictures(curves, TEMPERATURES, asked.tau_s, folder),
            mass_picture(own, TEMPERATURES, asked.tau_s, folder),
            *target_pictures(embedding, asked.tau_s, limit, asked.views, folder),
        ],
        steps=[
            {"share": share, "pairs": pair_cards(source, sample, pairs)}
            for share, pairs in caption_graph.ladder(embedding, sample.captions, LEVELS, seed=seed)
        ],
        closest=pair_cards(source, sample, caption_graph.closest_pairs(embedding, sample.captions)),
        duplicates=duplicate_groups(source, sample),
    )
    return [
        *(f"{name}: {fact}" for name, fact in facts.items()),
        *(f"{item.level}: {item.text}" for item in advice),
        str(out),
    ]


def run(arguments: list[str]) -> None:
    """Does what the command line says."""
    overrides, arguments = split_overrides(["inspect", *arguments])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of a record set, emoji, or a config file")
    parser.add_argument("--out", default="inspect.html", help="page to write (default: %(default)s)")
    parser.add_argument("--split", help="default: that of the config, or train")
    parser.add_argument("--caption", help="which caption of a record, as data.caption")
    parser.add_argument("--batch_size", type=int, help="images of a batch (default: that of the config, or 256)")
    parser.add_argument("--views", type=int, help="views of an image (default: that of the config, or 2)")
    parser.add_argument("--tau_s", type=float, help="target temperature (default: that of the config, or 0.1)")
    parser.add_argument("--classes", action="store_true", help="texts of the classes in place of captions (class_text)")
    parser.add_argument("--center", action="store_true", help="center the embeddings first, as objective.center")
    parser.add_argument("--sample", type=int, default=8192, help="records to read at most (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample and of the batches")
    flags = parser.parse_args(arguments[1:])
    for name, (low, high) in BOUNDS.items():
        value = getattr(flags, name)
        if value is not None and not low <= value <= high:  # nan is not
            raise DataError(f"--{name}", value, f"a number from {low:g} to {high:g}")
    with local_copy_of(flags.out) as out:
        lines = inspect(question(flags, overrides), out, flags.sample, flags.seed)
    print("\n".join([*lines[:-1], flags.out]))


def main(arguments: Sequence[str] | None = None) -> int:
    return run_cli(run, arguments)


if __name__ == "__main__":
    sys.exit(main())

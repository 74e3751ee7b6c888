"""Looks at the caption graph of a data set before anything is trained: how alike captions are, and which tau_s fits.

    python -m xsample_jax.tools.inspect --data=emoji --out=inspect.html
    python -m xsample_jax.tools.inspect --data=data/cc3m --batch_size=1024
    python -m xsample_jax.tools.inspect --data=configs/cc3m.py --config.data.path=data/cc3m

Of a large set it reads a sample (--sample), and says so. Writes one page and its figures as PNG beside it. With a
config, split, caption, batch size, views and tau_s are those of the run.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np

from xsample_jax.class_embeddings import load_class_embeddings
from xsample_jax.config import default_config, load_config, split_overrides
from xsample_jax.data.caption_sample import read_sample
from xsample_jax.data.embedding_rows import unit_rows
from xsample_jax.data.sources import open_source, source_folder
from xsample_jax.errors import DataError, UserError
from xsample_jax.graphs import caption_graph
from xsample_jax.graphs.caption_advice import advise, choice_at, choices, softest
from xsample_jax.objectives.build import build_objective, reads_target_temperature
from xsample_jax.storage.paths import local_copy_of
from xsample_jax.tools.caption_pictures import (
    curve_pictures,
    duplicate_groups,
    histogram_picture,
    mass_picture,
    pair_cards,
    target_pictures,
)
from xsample_jax.tools.page import figures_folder, write_page

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
    centre: bool
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
        flags.centre or config.objective.centre,
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
    if asked.centre:
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
    advice = advise(now, limit, spread, same * (batch_size - 1), batch_size, sample.without)

    folder = figures_folder(out)
    encoder = (source.manifest.text_encoder or {}).get("name", "not named") if texts is None else "of the class texts"
    kind = "class texts" if asked.classes else f"data.caption = {asked.caption}"
    sampled = f"{len(sample):,} random records of {sample.total:,}" if len(sample) < sample.total else "all records"
    facts = {
        "Set": f"{source.manifest.name}, split {asked.split}, {sample.total:,} records",
        "Looked at": sampled,
        "Captions": f"{kind}; {len(set(sample.captions)):,} different ones",
        "Text encoder": f"{encoder}, {embedding.shape[1]} numbers{', centred' if asked.centre else ''}",
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
    parser.add_argument("--centre", action="store_true", help="centre the embeddings first, as objective.centre")
    parser.add_argument("--sample", type=int, default=8192, help="records to read at most (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample and of the batches")
    flags = parser.parse_args(arguments[1:])
    for name in ("batch_size", "views", "tau_s", "sample"):
        value = getattr(flags, name)
        if value is not None and value <= 0:
            raise DataError(f"--{name}", value, "more than 0")
    with local_copy_of(flags.out) as out:
        lines = inspect(question(flags, overrides), out, flags.sample, flags.seed)
    print("\n".join([*lines[:-1], flags.out]))


def main() -> None:
    try:
        run(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()

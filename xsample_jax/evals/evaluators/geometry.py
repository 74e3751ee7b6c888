"""Shape of the embedding: alignment, tolerance, uniformity, effective rank, modality gap, agreement with captions."""

import numpy as np

from xsample_jax.evals.bench import Bench
from xsample_jax.evals.evaluator import Evaluator
from xsample_jax.evals.features import Features
from xsample_jax.evals.geometry import alignment, caption_correlation, effective_rank, modality_gap, uniformity
from xsample_jax.evals.result import Collector

MOST_CAPTIONS = 2000  # of the rank correlation, which compares every two


def add_geometry(out: Collector, of: Features, concepts: np.ndarray, units: np.ndarray, kinds: np.ndarray) -> None:
    """Adds what needs images alone, of the embedding (of the features where there is none).

    Args:
      concepts, kinds: int [n]. Alignment is over pairs of one concept, tolerance over pairs of one kind (a class, which
        may hold many concepts).
      units: int [n], what the bootstrap resamples.
    """
    z = of.features if of.embedding is None else of.embedding
    values, rows = alignment(z, concepts)
    if len(rows):
        out.examples_of("geometry/alignment", values, units[rows])
    values, rows = alignment(z, kinds)
    if len(rows):
        out.examples_of("geometry/tolerance", 1 - values / 2, units[rows])
    if len(z) > 1:
        values, rows = uniformity(z)
        out.examples_of("geometry/uniformity", values, units[rows])
    out.scalar("geometry/effective_rank", effective_rank(of.features))


def add_caption_correlation(out: Collector, of: Features, concepts: np.ndarray | None = None) -> None:
    """Adds the rank correlation of the images' cosines with their captions', over pairs of concepts.

    of: rows without a caption are left out; nothing is added where the captions are too few or too alike to be ranked.
    concepts: int [n], whose rows are averaged first; None: rows of one caption are one concept.
    """
    there = of.has_caption
    of = of.rows(there)
    if concepts is None:
        _, concepts = np.unique(of.caption_embedding, axis=0, return_inverse=True)
        concepts = concepts.reshape(-1)
    else:
        concepts = concepts[there]
    known = np.unique(concepts)
    if len(known) > MOST_CAPTIONS:
        keep = np.isin(concepts, np.random.default_rng(0).permutation(known)[:MOST_CAPTIONS])
        of, concepts = of.rows(keep), concepts[keep]
    if len(known) < 4:  # without one of three, one pair is left
        return
    rho, contributions, names = caption_correlation(of.features, of.caption_embedding, concepts)
    if np.isfinite(contributions).all():
        out.examples_of("spearman/captions", contributions, names)
        out.scalar("spearman/captions", rho)


def geometry(bench: Bench, out: Collector) -> None:
    test = bench.test
    alone = -1 - np.arange(len(test))  # a row without a label is like no other
    concepts = np.where(test.label >= 0, test.label, alone)
    kinds = concepts if bench.target == "label" else test.attribute(bench.target)
    add_geometry(out, test, concepts, bench.units(test), kinds)


def captions(bench: Bench, out: Collector) -> None:
    """The rank correlation, and the modality gap of a model that embeds texts."""
    test = bench.test
    if test.caption_embedding is not None:
        add_caption_correlation(out, test)
    if bench.text_side is not None:
        rows, texts, _ = bench.text_side.of_split(bench.config.eval.split)
        out.examples_of("geometry/modality_gap", modality_gap(test.embedding[rows], texts), bench.units(test)[rows])


def all_geometry(bench: Bench, out: Collector) -> None:
    geometry(bench, out)
    captions(bench, out)


GEOMETRY = Evaluator(
    all_geometry, "alignment, tolerance, uniformity, effective rank, modality gap, rank correlation with the captions"
)

"""How much of a Matryoshka embedding can be cut off: kNN, probe and retrieval at every width (arXiv 2205.13147)."""

from collections.abc import Iterator

import numpy as np

from xsample_jax.data.records import unit_rows
from xsample_jax.errors import ConfigError, UserError
from xsample_jax.evals.context import EvalContext, Evaluator
from xsample_jax.evals.knn import knn_predict
from xsample_jax.evals.labels import NEIGHBORS, TEMPERATURE, check_target, guess
from xsample_jax.evals.linear_probes import fit_probes
from xsample_jax.evals.metrics import Collector, partners_of, random_order
from xsample_jax.evals.retrieval import recall_at

FEWEST = 4  # numbers of an embedding that are still looked at, where no widths are named


def widths_of(bench: EvalContext) -> tuple[int, ...]:
    """The widths that are measured, largest first.

    Those of --widths; else those that the run was trained with (objective.widths), after the whole embedding; else the
    whole embedding and its halves, quarters and so on down to 4: how a run looks that was not trained for it.
    """
    whole = bench.config.model.head.dim
    given = bench.options.widths or tuple(bench.config.objective.widths)
    if not given:
        given = tuple(whole >> step for step in range(whole.bit_length()) if whole >> step >= FEWEST)
    return tuple(sorted({whole, *given}, reverse=True))


def check(bench: EvalContext) -> Iterator[UserError]:
    """Whether there is something to predict, and no width is above that of the embedding."""
    yield from check_target(bench)
    whole, wrong = bench.config.model.head.dim, [width for width in widths_of(bench) if width < 1]
    wrong += [width for width in bench.options.widths if width > whole]
    if wrong:
        yield ConfigError("--widths", wrong[0], f"widths from 1 to {whole}, that of the embedding (model.head.dim)")


def widths(bench: EvalContext, out: Collector) -> None:
    """Prefixes of the embedding, scaled to unit length again."""
    rows = bench.labeled
    train, test = (_embedding(bench, of) for of in (bench.train, bench.test))
    for width in widths_of(bench):
        x, y = unit_rows(train[:, :width]), unit_rows(test[:, :width])
        found = {
            "knn": knn_predict(x, rows.train_labels, y, NEIGHBORS, TEMPERATURE),
            "probe": fit_probes(x, {"": rows.train_labels}, rows.groups)[""].predict(y),
        }
        for name, predicted in found.items():
            right = (predicted == rows.test_labels).astype(np.float32)
            out.add_per_example(f"width/{width}/{bench.target}/{name}", right, rows.units, **guess(rows))
        hits, which = recall_at(y, rows.test_labels, y, rows.test_labels, (1,), same_rows=True)
        if len(which):
            partners = partners_of(rows.test_labels[which], rows.test_labels, True)
            chance = random_order(partners, len(y) - 1, 1)
            facts = {"classes": len(np.unique(rows.test_labels)), "chance": chance}
            out.add_per_example(f"width/{width}/{bench.target}/R@1", hits[1], rows.units[which], **facts)


def _embedding(bench: EvalContext, of) -> np.ndarray:
    """The embeddings of the rows that have a label, as EvalContext.labeled has their features."""
    labels = of.label if bench.target == "label" else of.attribute(bench.target)
    return of.embedding[labels >= 0]


WIDTHS = Evaluator(
    widths,
    "kNN, ridge probe and recall at 1 on prefixes of the embedding: the widths of --widths, or of objective.widths",
    check,
    ("width/<width>/<target>/knn", ".../probe", ".../R@1"),
)

"""One term of an objective, as data, and its value on a batch, written out densely."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from xsample_jax.choice import Choice, name_of, options_of, resolve
from xsample_jax.graphs.combine import Graph, Mixture, target
from xsample_jax.graphs.sources import REQUIRES, identity, label
from xsample_jax.objectives.blocks import IMAGE, Block, Rows, concatenate, select
from xsample_jax.objectives.cross_entropy import AGGREGATES, DENOMINATORS, Pairing, entropy, log_sum, mean_over_rows
from xsample_jax.objectives.features import FEATURE_TERMS
from xsample_jax.objectives.links import LINKS
from xsample_jax.objectives.mixing import MIXERS
from xsample_jax.objectives.negatives import NEGATIVES
from xsample_jax.objectives.similarity import SIMILARITIES
from xsample_jax.objectives.temperature import TEMPERATURES
from xsample_jax.objectives.weights import WEIGHTS

GRAPH, FIRST_VIEW, SECOND_VIEW = Graph(), Rows("image", 0), Rows("image", 1)


@dataclasses.dataclass(frozen=True)
class Term:
    """A target graph that a student graph over the same pairs must match. The equation: objectives/cross_entropy.py.

    Attributes:
      graph: T, what should be similar (graphs/combine.py).
      anchors, keys: the rows compared (objectives/blocks.py); keys may be several blocks.
      similarity: how alike two embeddings are (objectives/similarity.py).
      temperature: a rule (objectives/temperature.py), or a number in place of the objective's temperature.
      link: softmax (the cross-entropy), or another from objectives/links.py.
      denominator: shared, own, views or rank; negatives: the weights N in it (objectives/negatives.py).
      aggregate: out or in: the mean over positives outside or inside the logarithm.
      row_weight, attraction, repulsion: w, a, r; a number or a rule (objectives/weights.py).
      mixer: synthetic keys (objectives/mixing.py), or None.
      merge_views: all views of an image are one anchor, whose positives and negatives are pooled.
      self_pairs: a row is its own key too (off everywhere in the paper).
      reduce: rows (mean over anchors with a positive) or pairs (sum over anchors / number of positive pairs).
      weight: factor of the term in the loss.
    """

    graph: Graph | Mixture = GRAPH
    anchors: Rows = IMAGE
    keys: Rows | tuple[Rows, ...] = IMAGE
    similarity: Choice = "dot"
    temperature: Choice | float = "base"
    link: Choice = "softmax"
    denominator: Choice = "shared"
    negatives: Choice = "everything"
    aggregate: str = "out"
    row_weight: Choice | float = 1.0
    attraction: Choice | float = 1.0
    repulsion: Choice | float = 1.0
    mixer: Choice | None = None
    merge_views: bool = False
    self_pairs: bool = False
    reduce: str = "rows"
    weight: float = 1.0

    @property
    def key_rows(self) -> tuple[Rows, ...]:
        """The keys as a tuple, also where there is only one selection."""
        return self.keys if isinstance(self.keys, tuple) else (self.keys,)

    @property
    def is_cross_entropy(self) -> bool:
        """Whether the value is H(T, p), so that value - H(T) is a Kullback-Leibler divergence."""
        return (
            name_of(self.link) == "softmax"
            and (self.denominator, self.negatives, self.aggregate, self.reduce)
            == ("shared", "everything", "out", "rows")
            and (self.row_weight, self.attraction, self.repulsion) == (1.0, 1.0, 1.0)
            and all(name_of(part.normaliser) != "none" for part in getattr(self.graph, "graphs", (self.graph,)))
        )


@dataclasses.dataclass(frozen=True)
class FeatureTerm:
    """A term on embeddings of the same images rather than on pairs (objectives/features.py)."""

    name: Choice
    x: Rows = FIRST_VIEW
    y: Rows = SECOND_VIEW
    weight: float = 1.0


@dataclasses.dataclass(frozen=True)
class Pairs:
    """What a term compares, all [A, K] where nothing else is said: the input of the equation."""

    logits: jax.Array
    target: jax.Array
    valid: jax.Array
    temperature: jax.Array
    u: Block
    v: Block


def pairs_of(
    term: Term,
    blocks: Mapping[str, Block],
    images: int,
    temperature,
    target_temperature,
    bias=0.0,
    progress=0.0,
    key=None,
) -> Pairs:
    """Target and logits of a term on the rows of a batch.

    Args:
      blocks: rows of the step (objectives/blocks.py); images: number of images B.
      temperature: the base temperature tau, a scalar; target_temperature: tau_s.
      bias: added to the logits (SigLIP). progress: share of the run that is over. key: for synthetic keys.
    """
    u = select(blocks, term.anchors, images)
    v = concatenate([select(blocks, rows, images) for rows in term.key_rows])
    valid = jnp.ones((len(u["z"]), 1), bool) & v["filled"][None, :]
    if not term.self_pairs:
        valid &= (u["row"][:, None] != v["row"][None, :]) | (u["row"][:, None] < 0)
    graph = target(term.graph, u, v, valid, target_temperature)
    compare = resolve(SIMILARITIES, term.similarity, "similarity")
    similarity = compare(u["z"], v["z"], u, v)
    if isinstance(term.temperature, float | int):
        tau = term.temperature
    else:
        tau = resolve(TEMPERATURES, term.temperature, "temperature")(temperature, u, similarity, graph, progress)
    if term.mixer is not None:
        negative = valid & (graph <= 0)
        synthetic = resolve(MIXERS, term.mixer, "mixer")(u["z"], v["z"], negative, key)
        extra = compare(u["z"], synthetic, u, v)
        similarity = jnp.concatenate([similarity, extra], axis=1)
        graph = jnp.concatenate([graph, jnp.zeros_like(extra)], axis=1)
        valid = jnp.concatenate([valid, jnp.ones(extra.shape, bool)], axis=1)
    return Pairs(similarity / tau + bias, graph, valid, tau, u, v)


def count_rows(term: Term, blocks: Mapping[str, Block], images: int) -> tuple[int, int]:
    """(anchors, keys) of a term on a batch."""
    anchors, *keys = (len(select(blocks, rows, images)["z"]) for rows in (term.anchors, *term.key_rows))
    return anchors, sum(keys)


def ranked_by(term: Term) -> frozenset[str]:
    """Entries of a batch that the rank denominator of a term reads."""
    return frozenset(REQUIRES.get(options_of(term.denominator).get("by", ""), ()))


def term_rows(term: Term, pairs: Pairs, images: int) -> tuple[jax.Array, jax.Array]:
    """(value of every anchor [A], whether it counts [A]): anchors without a positive are left out of the mean."""
    logits, graph, valid, u, v = pairs.logits, pairs.target, pairs.valid, pairs.u, pairs.v
    if name_of(term.link) != "softmax":
        return resolve(LINKS, term.link, "link")(logits, graph, valid), jnp.ones(len(logits), bool)
    weight = jax.lax.stop_gradient(negatives_of(term, pairs))
    pair_view = jnp.where(u["view"][:, None] == v["view"][None, :], v["view"][None, :], -1)
    if term.merge_views:
        logits, graph, weight, pair_view = (x.reshape(images, -1) for x in (logits, graph, weight, pair_view))
    counted = jnp.sum(graph > 0, axis=-1) > 0
    denominator = resolve(DENOMINATORS, term.denominator, "denominator")
    log_denominator = denominator(logits, weight, Pairing(u, v, pair_view, len(v["z"]) // images))
    given = (logits, graph, weight, log_denominator, u, pairs.temperature)
    value = AGGREGATES[term.aggregate](
        logits, graph, log_denominator, _weight(term.attraction, given), _weight(term.repulsion, given)
    )
    return value * _weight(term.row_weight, given), counted


def term_value(term: Term, pairs: Pairs, images: int) -> tuple[jax.Array, jax.Array]:
    """(value of the term, anchors counted bool [A])."""
    values, counted = term_rows(term, pairs, images)
    if term.reduce == "pairs":
        return jnp.sum(jnp.where(counted, values, 0.0)) / jnp.maximum(jnp.sum(pairs.target > 0), 1), counted
    return mean_over_rows(values, counted), counted


def feature_value(term: FeatureTerm, blocks: Mapping[str, Block], images: int) -> jax.Array:
    """Value of a term on embeddings."""
    x, y = (select(blocks, rows, images)["z"] for rows in (term.x, term.y))
    return resolve(FEATURE_TERMS, term.name, "feature term")(x, y)


def graph_metrics(pairs: Pairs, counted: jax.Array) -> dict[str, jax.Array]:
    """What a target graph asks for, means over the counted anchors; rows scaled to sum to one.

    target_entropy H(T) in nats; own_view_mass: on views of the same image; same_class_mass: on the same label, own
    views included (only with labels); rows_without_positive: share of anchors that are left out.
    """
    keys = len(pairs.v["z"])
    graph = pairs.target[:, :keys]
    graph = graph / jnp.maximum(graph.sum(axis=-1, keepdims=True), 1e-12)
    counted = counted if len(counted) == len(graph) else graph.sum(axis=-1) > 0
    rows = {
        "target_entropy": entropy(graph),
        "own_view_mass": jnp.sum(graph * identity(pairs.u, pairs.v), axis=-1),
    }
    if "label" in pairs.u and "label" in pairs.v:
        rows["same_class_mass"] = jnp.sum(graph * label(pairs.u, pairs.v), axis=-1)
    metrics = {name: mean_over_rows(value, counted) for name, value in rows.items()}
    return metrics | {"rows_without_positive": 1.0 - jnp.mean(counted)}


def log_denominators(term: Term, pairs: Pairs) -> jax.Array:
    """log sum_k N_ik exp S_ik of every anchor, [A]: what SogCLR averages over the epochs."""
    return log_sum(pairs.logits, negatives_of(term, pairs))


def negatives_of(term: Term, pairs: Pairs) -> jax.Array:
    """N [A, K] of a term: the weights in its denominator; synthetic keys weigh one."""
    keys = len(pairs.v["z"])
    rule = resolve(NEGATIVES, term.negatives, "negatives")
    weight = rule(pairs.logits[:, :keys], pairs.target[:, :keys], pairs.valid[:, :keys], pairs.u, pairs.v)
    return jnp.concatenate([weight, pairs.valid[:, keys:].astype(weight.dtype)], axis=1)


def _weight(choice: Choice | float, given: tuple):
    if isinstance(choice, float | int):
        return choice
    return jax.lax.stop_gradient(resolve(WEIGHTS, choice, "row weight")(*given))

"""One term of an objective: as data, its value on a batch, written out densely, and how a config writes it."""

import dataclasses
import typing
from collections.abc import Collection, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from xsample_jax.augment.ids import fold_in_id, words_of
from xsample_jax.errors import ConfigError, did_you_mean, lookup, raise_all
from xsample_jax.graphs.targets import Graph, Mixture, parts_of, scaled_weight, source_slots, target
from xsample_jax.objectives.blocks import IMAGE, OF_VIEWS, Block, Rows, concatenate, select
from xsample_jax.objectives.cross_entropy import (
    AGGREGATES,
    DENOMINATORS,
    Pairing,
    log_sum,
    mean_over_rows,
)
from xsample_jax.objectives.feature_losses import FEATURE_TERMS
from xsample_jax.objectives.links import COUNTING, LINKS
from xsample_jax.objectives.logits import SIMILARITIES, TEMPERATURES, TemperatureInputs
from xsample_jax.objectives.mixers import MIXERS, MixerInputs
from xsample_jax.objectives.negatives import NEGATIVES
from xsample_jax.objectives.row_weights import WEIGHTS, WeightInputs
from xsample_jax.registry import Choice, Slot, in_words, is_of, name_of, resolve, slot_of

# Losses of pairs that say nothing about a row without a positive.
OF_POSITIVES = ("robust", "symmetric", "z", "soft_top_k", "group_order", "multi_similarity")

GRAPH, FIRST_VIEW, SECOND_VIEW = Graph(), Rows("image", 0), Rows("image", 1)


@dataclasses.dataclass(frozen=True)
class Term:
    """A target graph that a student graph over the same pairs must match. The equation: objectives/cross_entropy.py.

    Attributes:
      graph: T, what should be similar (graphs/targets.py).
      anchors, keys: the rows compared (objectives/terms.py); keys may be several blocks.
      similarity: how alike two embeddings are (objectives/logits.py).
      temperature: a rule (objectives/logits.py), or a number in place of the objective's temperature.
      link: softmax (the cross-entropy), or another from objectives/links.py.
      denominator: shared, own, views or rank; negatives: the weights N in it (objectives/negatives.py), or for another
        link than softmax which pairs without target it looks at.
      aggregate: out or in: the mean over positives outside or inside the logarithm.
      row_weight, attraction, repulsion: w, a, r; a number or a rule (objectives/row_weights.py).
      mixer: synthetic keys (objectives/negatives.py), or None.
      merge_views: all views of an image are one anchor, whose positives and negatives are pooled.
      self_pairs: a row is its own key too, in the denominator N; self_targets: in the target T.
      each_view: one term for each view of the images, and their mean, instead of one over the rows of all views.
      reduce: rows (mean over anchors with a positive) or pairs (sum over anchors / number of positive pairs).
      weight: factor of the term in the loss, a number or a rule of progress (graphs/targets.py).
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
    self_targets: bool = False
    each_view: bool = False
    reduce: str = "rows"
    weight: Choice | float = 1.0

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
            and all(name_of(part.normalizer) != "none" for part in getattr(self.graph, "graphs", (self.graph,)))
        )


@dataclasses.dataclass(frozen=True)
class FeatureTerm:
    """A term on embeddings of the same images, not on pairs (objectives/feature_losses.py); each_view: as in Term."""

    name: Choice
    x: Rows = FIRST_VIEW
    y: Rows = SECOND_VIEW
    weight: Choice | float = 1.0
    each_view: bool = False


@dataclasses.dataclass(frozen=True)
class Pairs:
    """What a term compares, all [A, K] unless noted: the input of the equation.

    valid: bool, pairs that are compared at all; repelled: bool, those of them that the denominator may have;
    progress: share of the run that is over, for row weights; synthetic [A, M]: weights of the last M keys, which no row
    is.
    """

    logits: jax.Array
    target: jax.Array
    valid: jax.Array
    repelled: jax.Array
    temperature: jax.Array
    u: Block
    v: Block
    progress: jax.Array | float = 0.0
    synthetic: jax.Array | None = None

    @property
    def counts(self) -> jax.Array:
        """How often every pair counts, float [A, K]: once if it is valid, a synthetic key as its mixer says."""
        once = self.valid.astype(self.logits.dtype)
        return once if self.synthetic is None else once.at[:, -self.synthetic.shape[1] :].set(self.synthetic)


class StepValues(NamedTuple):
    """What a loss depends on at a step besides its rows and temperature.

    bias: added to the logits (SigLIP); progress: share of the run that is over, for temperatures and weights that
    depend on it; key: random key, for synthetic keys and feature terms that draw.
    """

    bias: jax.Array | float = 0.0
    progress: jax.Array | float = 0.0
    key: jax.Array | None = None


AT_START = StepValues()


def pairs_of(
    term: Term,
    blocks: Mapping[str, Block],
    images: int,
    temperature: jax.Array | float,
    target_temperature: Choice | float,
    at: StepValues = AT_START,
) -> Pairs:
    """Target and logits of a term on the rows of a batch.

    Args:
      blocks: rows of the step (objectives/terms.py); images: number of images B.
      temperature: the base temperature tau, a scalar; target_temperature: tau_s.
    """
    bias, progress, key = at
    u = select(blocks, term.anchors, images)
    v = concatenate([select(blocks, rows, images) for rows in term.key_rows])
    there = u["filled"] if _may_lack_anchors(term) else jnp.ones(len(u["z"]), bool)
    filled = there[:, None] & v["filled"][None, :]
    others = filled & ((u["row"][:, None] != v["row"][None, :]) | (u["row"][:, None] < 0))
    attracted, repelled = (filled if own else others for own in (term.self_targets, term.self_pairs))
    valid = attracted | repelled
    graph = target(term.graph, u, v, attracted, target_temperature, progress)
    compare = resolve(SIMILARITIES, term.similarity, "similarity")
    similarity = compare(u["z"], v["z"], u, v)
    if isinstance(term.temperature, float | int):
        tau = term.temperature
    else:
        given = TemperatureInputs(temperature, u, similarity, graph, progress)
        tau = resolve(TEMPERATURES, term.temperature, "temperature")(given)
    rule = resolve(NEGATIVES, term.negatives, "negatives")
    if name_of(term.link) != "softmax" and term.negatives != "everything":
        repelled = rule(similarity / tau + bias, graph, repelled, u, v) > 0
        valid &= (graph > 0) | repelled
    pairs = Pairs(similarity / tau + bias, graph, valid, repelled, tau, u, v, progress)
    if term.mixer is None:
        return pairs
    negative = (graph <= 0) & (rule(pairs.logits, graph, repelled, u, v) > 0)
    return _with_synthetic(term, pairs, negative, bias, _keys_of_rows(key, u))


def _with_synthetic(term: Term, pairs: Pairs, negative: jax.Array, bias, keys: jax.Array) -> Pairs:
    """The pairs with the synthetic keys of the term's mixer after the real ones."""
    u, v = pairs.u, pairs.v
    given = MixerInputs(u["z"], v["z"], pairs.target, negative, u, v, keys)
    made = resolve(MIXERS, term.mixer, "mixer")(given)
    similarity = resolve(SIMILARITIES, term.similarity, "similarity")(u["z"], made.rows, u, v) + made.offset
    logits = similarity / pairs.temperature + bias
    weight, there = jax.lax.stop_gradient(made.weight).astype(logits.dtype), made.weight > 0
    real = [jnp.zeros_like(of) if made.alone else of for of in (pairs.target * made.kept, pairs.valid, pairs.repelled)]
    synthetic = [jnp.where(there, jax.lax.stop_gradient(made.target), 0.0), there, there]
    target, valid, repelled = (jnp.concatenate(both, axis=1) for both in zip(real, synthetic, strict=True))
    changes = {"target": target, "valid": valid, "repelled": repelled, "synthetic": weight}
    return dataclasses.replace(pairs, logits=jnp.concatenate([pairs.logits, logits], axis=1), **changes)


def views_apart(term: Term | FeatureTerm, blocks: Mapping[str, Block], images: int) -> tuple[Term | FeatureTerm, ...]:
    """The terms that a term with `each_view` expands to, one per view with an equal share of its weight."""
    if not term.each_view:
        return (term,)
    views = len(blocks["image"]["z"]) // images

    def at(rows, view):
        if isinstance(rows, tuple):
            return tuple(at(one, view) for one in rows)
        return (
            dataclasses.replace(rows, view=view)
            if rows.block in OF_VIEWS and rows.view is rows.without is None
            else rows
        )

    ends = ("anchors", "keys") if isinstance(term, Term) else ("x", "y")
    weight = scaled_weight(term.weight, 1 / views)
    return tuple(
        dataclasses.replace(term, each_view=False, weight=weight, **{end: at(getattr(term, end), view) for end in ends})
        for view in range(views)
    )


def _may_lack_anchors(term: Term) -> bool:
    """Whether some anchors may not be there: images of another part of the batch, clusters without rows."""
    return term.anchors.part is not None or term.anchors.block == "meta"


def _keys_of_rows(key: jax.Array, u: Block) -> jax.Array:
    """A random key for every anchor, of its image and view: the same wherever in the batch it is."""
    return jax.vmap(lambda id, view: jax.random.fold_in(fold_in_id(key, id), view))(words_of(u), u["view"])


# What each choice of a term is looked up in; numbers stand for themselves.
CHOICES = {
    "similarity": SIMILARITIES,
    "temperature": TEMPERATURES,
    "denominator": DENOMINATORS,
    "negatives": NEGATIVES,
    "aggregate": AGGREGATES,
    "row_weight": WEIGHTS,
    "attraction": WEIGHTS,
    "repulsion": WEIGHTS,
    "mixer": MIXERS,
}


def chosen_slots(term: Term) -> list[tuple[str, str, Slot]]:
    """(field, name, slot) of everything that a term chooses: what it reads and needs is the union over them."""
    found = [("graph.source", name_of(part.source), slot) for part, slot in _sources(term)]
    for field, registry in CHOICES.items():
        choice = getattr(term, field)
        if choice is not None and not isinstance(choice, int | float):
            found.append((field, name_of(choice), slot_of(registry, choice, field)))
    if name_of(term.link) != "softmax":
        found.append(("link", name_of(term.link), slot_of(LINKS, term.link, "link")))
    return found


def _sources(term: Term):
    return zip(parts_of(term.graph), source_slots(term.graph), strict=True)


def term_rows(term: Term, pairs: Pairs, images: int) -> tuple[jax.Array, jax.Array]:
    """(value of every anchor [A], whether it counts [A]): anchors without a positive are left out of the mean."""
    logits, graph, valid, u, v = pairs.logits, pairs.target, pairs.valid, pairs.u, pairs.v
    if name_of(term.link) != "softmax":
        slot = slot_of(LINKS, term.link, "link")
        side = (u, v) if slot.anchor_reads | slot.key_reads else ()
        count = pairs.counts if name_of(term.link) in COUNTING else valid
        values = resolve(LINKS, term.link, "link")(logits, graph, count, *side)
        needs_positive = name_of(term.link) in OF_POSITIVES
        counted = u["filled"] if _may_lack_anchors(term) else jnp.ones(len(logits), bool)
        return values, jnp.any(graph > 0, axis=-1) if needs_positive else counted
    weight = jax.lax.stop_gradient(negatives_of(term, pairs))
    pair_view = jnp.where(u["view"][:, None] == v["view"][None, :], v["view"][None, :], -1)
    if term.merge_views:
        logits, graph, weight, pair_view = (x.reshape(images, -1) for x in (logits, graph, weight, pair_view))
    counted = jnp.sum(graph > 0, axis=-1) > 0
    denominator = resolve(DENOMINATORS, term.denominator, "denominator")
    pairing = Pairing(u, v, pair_view, _views(term, images, len(v["z"])), pairs.temperature)
    log_denominator = denominator(logits, weight, pairing)
    given = WeightInputs(logits, graph, weight, log_denominator, u, pairs.temperature, pairs.progress)
    value = AGGREGATES[term.aggregate](
        logits, graph, log_denominator, _weight(term.attraction, given), _weight(term.repulsion, given)
    )
    return value * _weight(term.row_weight, given), counted


def _views(term: Term, images: int, keys: int) -> int:
    """How many views the keys of a term can be of."""
    of_one = [rows.view + 1 for rows in term.key_rows if rows.view is not None]
    return max([keys // images if len(of_one) < len(term.key_rows) else 1, *of_one])


def term_value(term: Term, pairs: Pairs, images: int) -> tuple[jax.Array, jax.Array]:
    """(value of the term, anchors counted bool [A])."""
    values, counted = term_rows(term, pairs, images)
    if term.reduce == "pairs":
        return jnp.sum(jnp.where(counted, values, 0.0)) / jnp.maximum(jnp.sum(pairs.target > 0), 1), counted
    return mean_over_rows(values, counted), counted


def feature_value(
    term: FeatureTerm, blocks: Mapping[str, Block], images: int, key: jax.Array | None = None
) -> jax.Array:
    """Value of a term on embeddings; key: for terms that draw random numbers.

    Raises ConfigError where the term reads head outputs and a block has none, or draws and there is no key.
    """
    slot = slot_of(FEATURE_TERMS, term.name, "feature term")
    if slot.draws and key is None:
        raise ConfigError("key", None, f"a random key: the term {name_of(term.name)!r} draws from it")
    selected = [select(blocks, rows, images) for rows in (term.x, term.y)]
    if slot.raw and any("raw" not in block for block in selected):
        expected = f'an entry "raw", the head outputs that the term {name_of(term.name)!r} reads'
        raise ConfigError("blocks", sorted(selected[0]), expected)
    x, y = (block["raw" if slot.raw else "z"] for block in selected)
    reads = ((selected[0], slot.anchor_reads), (selected[1], slot.key_reads if slot.of_keys else ()))
    side = [{name: rows[name] for name in names} for rows, names in reads if names]
    side += [lookup(blocks, slot.table, "feature term")] if slot.table else []
    drawn = [key] if slot.draws else []
    return resolve(FEATURE_TERMS, term.name, "feature term")(x, y, *side, *drawn)


def log_denominators(term: Term, pairs: Pairs) -> jax.Array:
    """log sum_k N_ik exp S_ik of every anchor, [A]: what SogCLR averages over the epochs."""
    return log_sum(pairs.logits, negatives_of(term, pairs))


def negatives_of(term: Term, pairs: Pairs) -> jax.Array:
    """N [A, K] of a term: the weights in its denominator."""
    keys = len(pairs.v["z"])
    rule = resolve(NEGATIVES, term.negatives, "negatives")
    weight = rule(pairs.logits[:, :keys], pairs.target[:, :keys], pairs.repelled[:, :keys], pairs.u, pairs.v)
    return weight if pairs.synthetic is None else jnp.concatenate([weight, pairs.synthetic], axis=1)


def _weight(choice: Choice | float, given: WeightInputs):
    if isinstance(choice, float | int):
        return choice
    return jax.lax.stop_gradient(resolve(WEIGHTS, choice, "row weight")(given))


# Terms as plain data (config objective.terms): dicts, names and numbers, each of the type of its field.


def read_terms(terms: Collection[Mapping]) -> list[Term | FeatureTerm]:
    """The terms of plain data; raises what is wrong with any of them at once."""
    made, problems = [], []
    for number, values in enumerate(terms):
        try:
            made.append(term_from_dict(values, f"objective.terms[{number}]"))
        except ConfigError as error:
            problems.append(error)
    raise_all(problems, "the objective")
    return made


def term_from_dict(values: Mapping, field: str) -> Term | FeatureTerm:
    """A term from plain data; ConfigError for a field that a term does not have."""
    values = dict(values)
    kind = FeatureTerm if "name" in values else Term
    values = {name: _value(name, value, field) for name, value in values.items()}
    return _made(kind, values, field)


def _value(name: str, value, field: str):
    """Plain data of one field as what a term holds."""
    if name in ("anchors", "x", "y"):
        return _rows(value, f"{field}.{name}")
    if name == "keys" and isinstance(value, list | tuple):
        if not value:
            raise ConfigError(f"{field}.keys", (), "at least one block, as 'image'")
        return tuple(_rows(rows, f"{field}.keys") for rows in value)
    if name == "keys":
        return _rows(value, f"{field}.keys")
    if name == "graph":
        return _graph(value, f"{field}.graph")
    return value


def _rows(value, field: str) -> Rows:
    if isinstance(value, str):
        return Rows(value)
    if not isinstance(value, Mapping):
        raise ConfigError(field, value, "a block, as 'image', or a dict, as {'block': 'image', 'view': 0}")
    values = {name: _rows(part, field) if name in ("beside", "times") else part for name, part in value.items()}
    return _made(Rows, values, field)


def _graph(value, field: str) -> Graph | Mixture:
    if isinstance(value, str):
        return Graph(value)
    if not isinstance(value, Mapping):
        raise ConfigError(field, value, "a source, as 'caption', or a dict, as {'source': 'caption'}")
    values = {name: tuple(part) if isinstance(part, list) else part for name, part in value.items()}
    if isinstance(values.get("graphs"), tuple):
        values["graphs"] = tuple(_graph(part, field) for part in values["graphs"])
        return _made(Mixture, {"weights": ()} | values, field)
    return _made(Graph, values, field)


def _made(kind: type, values: dict, field: str):
    known = [item.name for item in dataclasses.fields(kind)]
    for name in values:
        if name not in known:
            raise ConfigError(f"{field}.{name}", values[name], f"a field of {kind.__name__}", did_you_mean(name, known))
    hints = typing.get_type_hints(kind)
    for name, value in values.items():
        if not is_of(hints[name], value):
            raise ConfigError(f"{field}.{name}", value, in_words(hints[name]))
    return kind(**values)

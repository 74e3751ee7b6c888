"""One term of an objective, as data, and its value on a batch, written out densely."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from xsample_jax.errors import ConfigError, DataError, lookup
from xsample_jax.graphs.targets import Graph, Mixture, parts_of, scaled_weight, source_slots, target
from xsample_jax.objectives.cross_entropy import (
    AGGREGATES,
    DENOMINATORS,
    Pairing,
    log_sum,
    mean_over_rows,
)
from xsample_jax.objectives.feature_losses import FEATURE_TERMS
from xsample_jax.objectives.links import LINKS
from xsample_jax.objectives.logits import SIMILARITIES, TEMPERATURES, all_products
from xsample_jax.objectives.negatives import MIXERS, NEGATIVES
from xsample_jax.objectives.row_weights import WEIGHTS
from xsample_jax.registry import Choice, Slot, name_of, resolve, slot_of

# Blocks: the rows that an objective compares, with everything that is known about them.
#
# A block is a dict of arrays with one row per embedding: "z" [n, D] (unit rows, with gradient where there is one) and
# side information (graphs/sources.py). Blocks of a step: image (all views, row = image * V + view), local (small
# crops), predicted, text, teacher and text_teacher (EMA encoders), queue and text_queue (keys of past steps),
# neighbors (in the queue), prototypes, classes (a learned row for each), mixed and mixed_text (rows of two images),
# frozen and frozen_queue (of a frozen teacher).


Block = dict[str, jax.Array]

OF_VIEWS = ("image", "teacher", "predicted", "neighbors", "mixed", "frozen")  # blocks with one row per view


@dataclasses.dataclass(frozen=True)
class Rows:
    """Which rows of a step: a block, or one view of it.

    Attributes:
      block: image, local, predicted, text, teacher, text_teacher, queue, text_queue, neighbors, prototypes, classes,
        mixed, mixed_text, frozen or frozen_queue.
      view: keep only this view of every image; None: all rows.
      beside: another selection with the same samples, put beside it: [n, 2 D] (the modalities of GRAM).
      times: another selection with the same samples: all products of the two, [n * n, D] (the keys of Symile).
      still: no gradient flows into these rows.
      part: only rows of this part of a batch by plan (data/plans.py): 0 kept, new or support, 1 to forget, rehearsed
        or query. The others are there, but are no keys, and as anchors they do not count.
    """

    block: str = "image"
    view: int | None = None
    beside: "Rows | None" = None
    times: "Rows | None" = None
    still: bool = False
    part: int | None = None


IMAGE, TEXT = Rows("image"), Rows("text")
VIEW_0, VIEW_1 = Rows("image", 0), Rows("image", 1)


def image_block(z: jax.Array, per_image: Mapping[str, jax.Array], views: int, first_row: int = 0, **per_row) -> Block:
    """The block of `views` embeddings per image. z [B * views, D]; per_image: side information [B, ...]."""
    side = {name: jnp.repeat(value, views, axis=0) for name, value in per_image.items()}
    rows = jnp.arange(len(z), dtype=jnp.int32)
    known = {"row": first_row + rows, "view": rows % views, "filled": jnp.ones(len(z), bool)}
    return {"z": z, "embedding": jax.lax.stop_gradient(z)} | known | side | per_row


def key_block(z: jax.Array, **side) -> Block:
    """Keys that are nobody's own row: queue entries, prototypes. Without an id they equal nothing."""
    nothing = jnp.full(len(z), -1, jnp.int32)
    known = {"row": nothing, "view": nothing, "id": nothing, "filled": jnp.ones(len(z), bool)}
    return {"z": z, "embedding": jax.lax.stop_gradient(z)} | known | side


def other_view(z: jax.Array, views: int) -> jax.Array:
    """The next view of the same image for every row, without gradient. [B * V, D] -> [B * V, D]."""
    by_image = z.reshape(-1, views, z.shape[-1])
    return jax.lax.stop_gradient(jnp.roll(by_image, -1, axis=1).reshape(z.shape))


def check_unit_rows(blocks: Mapping[str, Block]) -> None:
    """Raises DataError where an embedding is not finite or not of length one.

    Looks at values, so it is silent on traced arrays: inside a compiled step the model scales its rows itself.
    """
    for name, block in blocks.items():
        if any(isinstance(block[entry], jax.core.Tracer) for entry in ("z", "filled")):
            continue
        length = np.linalg.norm(np.asarray(block["z"], np.float64), axis=-1)
        bad = np.flatnonzero(np.asarray(block["filled"]) & ~(np.abs(length - 1) < 1e-2))
        if bad.size:
            raise DataError(
                f"embeddings of block {name!r}",
                f"row {bad[0]} has length {length[bad[0]]:.4g}",
                "finite rows of length one",
                "Scale them with xsample_jax.ops.unit_rows.",
            )


def select(blocks: Mapping[str, Block], rows: Rows, images: int) -> Block:
    """The rows that `rows` names, of a step on `images` images.

    Raises ConfigError for a block or a view that this step does not have.
    """
    block = lookup(blocks, rows.block, "rows.block")
    if rows.view is not None:
        views = len(block["z"]) // images
        if not 0 <= rows.view < views:
            raise ConfigError("rows.view", rows.view, f"one of the {views} views of {rows.block}, from 0")
        block = {name: value[rows.view :: views] for name, value in block.items()}
    if rows.beside is not None:
        other = select(blocks, rows.beside, images)
        block = block | {name: jnp.concatenate([block[name], other[name]], axis=1) for name in ("z", "embedding")}
        block |= {"row": jnp.full_like(block["row"], -1)}
    if rows.times is not None:
        other = select(blocks, rows.times, images)
        matched = jnp.where(jnp.eye(images, dtype=bool), block["id"][:, None], -1).reshape(-1)
        block = key_block(all_products(block["z"], other["z"]), id=matched)
    if rows.part is not None:
        block = block | {"filled": block["filled"] & (block["part"] == rows.part)}
    if rows.still:
        block = block | {name: jax.lax.stop_gradient(block[name]) for name in ("z", "raw") if name in block}
    return block


def concatenate(parts: list[Block]) -> Block:
    """Several blocks as one: the keys of MoCo are the teacher's rows and the queue. Keeps what all of them have."""
    if len(parts) == 1:
        return parts[0]
    names = set.intersection(*(set(part) for part in parts))
    return {name: jnp.concatenate([part[name] for part in parts]) for name in sorted(names)}


# Losses of pairs that say nothing about a row without a positive.
OF_POSITIVES = ("robust", "symmetric", "z", "soft_top_k", "group_order")

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
    progress: share of the run that is over, for row weights.
    """

    logits: jax.Array
    target: jax.Array
    valid: jax.Array
    repelled: jax.Array
    temperature: jax.Array
    u: Block
    v: Block
    progress: jax.Array | float = 0.0


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
      blocks: rows of the step (objectives/terms.py); images: number of images B.
      temperature: the base temperature tau, a scalar; target_temperature: tau_s.
      bias: added to the logits (SigLIP). progress: share of the run that is over. key: for synthetic keys.
    """
    u = select(blocks, term.anchors, images)
    v = concatenate([select(blocks, rows, images) for rows in term.key_rows])
    there = jnp.ones(len(u["z"]), bool) if term.anchors.part is None else u["filled"]
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
        tau = resolve(TEMPERATURES, term.temperature, "temperature")(temperature, u, similarity, graph, progress)
    rule = resolve(NEGATIVES, term.negatives, "negatives")
    if name_of(term.link) != "softmax" and term.negatives != "everything":
        repelled = rule(similarity / tau + bias, graph, repelled, u, v) > 0
        valid &= (graph > 0) | repelled
    if term.mixer is not None:
        negative = (graph <= 0) & (rule(similarity / tau + bias, graph, repelled, u, v) > 0)
        synthetic = resolve(MIXERS, term.mixer, "mixer")(u["z"], v["z"], negative, _keys_of_rows(key, u))
        extra = compare(u["z"], synthetic, u, v)
        similarity = jnp.concatenate([similarity, extra], axis=1)
        graph = jnp.concatenate([graph, jnp.zeros_like(extra)], axis=1)
        mixed = jnp.broadcast_to(jnp.any(negative, axis=1, keepdims=True), extra.shape)
        valid, repelled = (jnp.concatenate([of, mixed], axis=1) for of in (valid, repelled))
    return Pairs(similarity / tau + bias, graph, valid, repelled, tau, u, v, progress)


def views_apart(term: Term | FeatureTerm, blocks: Mapping[str, Block], images: int) -> tuple[Term | FeatureTerm, ...]:
    """The terms that a term with `each_view` stands for, one per view with an equal share of its weight."""
    if not term.each_view:
        return (term,)
    views = len(blocks["image"]["z"]) // images

    def at(rows, view):
        if isinstance(rows, tuple):
            return tuple(at(one, view) for one in rows)
        return dataclasses.replace(rows, view=view) if rows.block in OF_VIEWS and rows.view is None else rows

    ends = ("anchors", "keys") if isinstance(term, Term) else ("x", "y")
    weight = scaled_weight(term.weight, 1 / views)
    return tuple(
        dataclasses.replace(term, each_view=False, weight=weight, **{end: at(getattr(term, end), view) for end in ends})
        for view in range(views)
    )


def _keys_of_rows(key: jax.Array, u: Block) -> jax.Array:
    """A random key for every anchor, of its image and view: the same wherever in the batch it is."""
    return jax.vmap(lambda image, view: jax.random.fold_in(jax.random.fold_in(key, image), view))(u["id"], u["view"])


def count_rows(term: Term, blocks: Mapping[str, Block], images: int) -> tuple[int, int]:
    """(anchors, keys) of a term on a batch."""
    anchors, *keys = (len(select(blocks, rows, images)["z"]) for rows in (term.anchors, *term.key_rows))
    return anchors, sum(keys)


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
        values = resolve(LINKS, term.link, "link")(logits, graph, valid)
        needs_positive = name_of(term.link) in OF_POSITIVES
        counted = u["filled"] if term.anchors.part is not None else jnp.ones(len(logits), bool)
        return values, jnp.any(graph > 0, axis=-1) if needs_positive else counted
    weight = jax.lax.stop_gradient(negatives_of(term, pairs))
    pair_view = jnp.where(u["view"][:, None] == v["view"][None, :], v["view"][None, :], -1)
    if term.merge_views:
        logits, graph, weight, pair_view = (x.reshape(images, -1) for x in (logits, graph, weight, pair_view))
    counted = jnp.sum(graph > 0, axis=-1) > 0
    denominator = resolve(DENOMINATORS, term.denominator, "denominator")
    pairing = Pairing(u, v, pair_view, _views(term, images, len(v["z"])), pairs.temperature)
    log_denominator = denominator(logits, weight, pairing)
    given = (logits, graph, weight, log_denominator, u, pairs.temperature, pairs.progress)
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
    side = [{name: selected[0][name] for name in slot.anchor_reads}] if slot.anchor_reads else []
    drawn = [key] if slot.draws else []
    return resolve(FEATURE_TERMS, term.name, "feature term")(x, y, *side, *drawn)


def log_denominators(term: Term, pairs: Pairs) -> jax.Array:
    """log sum_k N_ik exp S_ik of every anchor, [A]: what SogCLR averages over the epochs."""
    return log_sum(pairs.logits, negatives_of(term, pairs))


def negatives_of(term: Term, pairs: Pairs) -> jax.Array:
    """N [A, K] of a term: the weights in its denominator; synthetic keys weigh one."""
    keys = len(pairs.v["z"])
    rule = resolve(NEGATIVES, term.negatives, "negatives")
    weight = rule(pairs.logits[:, :keys], pairs.target[:, :keys], pairs.repelled[:, :keys], pairs.u, pairs.v)
    return jnp.concatenate([weight, pairs.repelled[:, keys:].astype(weight.dtype)], axis=1)


def _weight(choice: Choice | float, given: tuple):
    if isinstance(choice, float | int):
        return choice
    return jax.lax.stop_gradient(resolve(WEIGHTS, choice, "row weight")(*given))

"""Which terms of an objective the streaming loss can do, and how: the dense value with memory linear in the rows."""

import dataclasses
from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp

from xsample_jax.graphs.sources import ONE_WAY
from xsample_jax.graphs.targets import LOCAL, Graph, Mixture, bounds_after, requires, similarity
from xsample_jax.models.heads import cosines
from xsample_jax.objectives.blocks import Block, Rows, concatenate, select
from xsample_jax.objectives.cross_entropy import mean_over_rows
from xsample_jax.objectives.streaming import tiles
from xsample_jax.objectives.streaming.loss import LOWEST_STATIC, Streaming, Target, class_table_rows, streaming_rows
from xsample_jax.objectives.streaming.sigmoid import streamed_sigmoid
from xsample_jax.objectives.streaming.z_scores import streamed_z
from xsample_jax.objectives.terms import Term
from xsample_jax.registry import name_of, options_of

# Side information that differs between the views of an image, besides the single views "view_0", ...
OF_VIEWS = ("teacher", "same_view_teacher", "frozen", "embedding", "other_view", "box", "row", "past", "frozen_pair")
# Blocks of which some rows may not be there.
PARTLY_FILLED = ("queue", "text_queue", "frozen_queue", "hard_text", "hard_text_teacher", "teacher_words")
# Blocks with a row for each class, cluster or prototype: as many as there are, which devices need not divide.
ROWS_OF_CLASSES = ("classes", "class_texts", "centers", "meta", "bank", "prototypes")
# Blocks whose rows are not views of the images of the batch.
ROWS_OF_NO_IMAGE = (*PARTLY_FILLED, *ROWS_OF_CLASSES)
# Links other than the softmax that can be streamed, and what may be done to the rows of their graph.
NORMALIZERS = {"z": ("row_sum", "none"), "sigmoid": ("none",), "sigmoid_mean": ("none",)}
# Sources that are the cosine of one entry of the side information.
COSINES = {"caption": "caption_embedding", "class_text": "class_embedding"}


def why_not(term: Term) -> str | None:
    """Why a term needs the whole matrix, in words; None if it can be streamed."""
    link, plain = name_of(term.link), term.reduce == "rows" and term.negatives == "everything"
    if not term.is_cross_entropy and not (link in NORMALIZERS and plain):
        return "its denominator, link or weights are not those of the plain cross-entropy"
    if name_of(term.similarity) != "dot" or term.mixer or term.merge_views or term.self_pairs or term.self_targets:
        return "its similarity, synthetic keys or merged views need all pairs at once"
    if not isinstance(term.temperature, float | int) and term.temperature != "base":
        return f"its temperature rule {name_of(term.temperature)!r} is not one number"
    if isinstance(term.graph, Mixture):
        return "its target is a mixture of graphs"
    graph, same = term.graph, term.anchors == term.keys
    if name_of(graph.normalizer) not in NORMALIZERS.get(link, ("softmax", "row_sum")):
        return f"its normalizer {name_of(graph.normalizer)!r} needs whole rows"
    if any(name_of(transform) not in LOCAL for transform in graph.transforms):
        return "a transform of its graph needs whole rows"
    if graph.target_temperature is not None and not isinstance(graph.target_temperature, float | int):
        return "its tau_s is a rule"
    if any(rows.beside or rows.times for rows in (term.anchors, *term.key_rows)):
        return "its rows are made of several modalities"
    if any(rows.block in ROWS_OF_CLASSES for rows in (term.anchors, *term.key_rows)):
        return "its rows of classes, clusters or prototypes are not split over the devices as images are"
    if any(rows.part is not None for rows in (term.anchors, *term.key_rows)):
        return "its rows are parts of a batch"
    if any(rows.without is not None for rows in (term.anchors, *term.key_rows)):
        return "its rows leave out one view of every image"
    if not same and any(_overlap(term.anchors, rows) for rows in term.key_rows):
        return "its anchors are some of its keys"
    if same and name_of(graph.source) in ONE_WAY:
        return f"its source {name_of(graph.source)!r} is not symmetric"
    return None


def _overlap(anchors: Rows, keys: Rows) -> bool:
    """Whether two selections can have a row in common: it would be its own key."""
    apart = None not in (anchors.view, keys.view) and anchors.view != keys.view
    return anchors.block == keys.block and not apart


def why_no_kernels(term: Term, objective_lowest: float, target_temperature: float, center: bool) -> str | None:
    """Why the kernels of streaming/pallas.py cannot do a term that can be streamed, in words; None if they can.

    objective_lowest: what the objective's tau cannot go below; target_temperature: its tau_s.
    """
    graph = term.graph
    if name_of(term.link) != "softmax":
        return f"its link {name_of(term.link)!r} is not the softmax"
    if graph.source == "class_text" and not graph.transforms and not center:
        return "a graph of class texts has a table instead of tiles, or reads embeddings by class"
    if name_of(graph.source) not in COSINES or graph.transforms or name_of(graph.normalizer) != "softmax":
        return "its target is not the softmax of cosines of texts"
    if term.anchors != term.keys:
        return "its anchors are not its keys"
    lowest = term.temperature if isinstance(term.temperature, float | int) else objective_lowest
    if min(lowest, graph.target_temperature or target_temperature) <= LOWEST_STATIC:
        return f"its temperatures are not known to stay above {LOWEST_STATIC}"
    return None


def streamed_term(
    term: Term,
    blocks: Mapping[str, Block],
    images: int,
    temperatures: tuple[jax.Array | float, float],
    bias: jax.Array | float,
    how: Streaming,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Value and metrics of a term (terms.term_value, graph_metrics) without any array of pairs.

    temperatures: tau and tau_s; bias: of the logits, which only the sigmoid links see.
    """
    graph, same, (temperature, target_temperature) = term.graph, term.anchors == term.keys, temperatures
    anchors = select(blocks, term.anchors, images)
    if (link := name_of(term.link)) == "z":
        keys = concatenate([select(blocks, rows, images) for rows in term.key_rows])
        return streamed_z(graph, options_of(term.link), anchors, keys, same, how)
    u, views = _side(anchors, graph, (term.anchors,), images)
    own_tau = isinstance(term.temperature, float | int)
    tau = term.temperature if own_tau else temperature
    how = dataclasses.replace(how, lowest_temperature=None) if own_tau else how
    target = Target(
        partial(similarity, graph, valid=None),
        name_of(graph.normalizer),
        graph.target_temperature or target_temperature,
        bounds_after(graph.transforms),
        None if graph.transforms else COSINES.get(name_of(graph.source)),
    )
    own = tiles.Rows(anchors["z"], u, views)
    of_classes = same and graph.source == "class_text" and not graph.transforms
    tabled = how.class_embeddings is not None and len(how.class_embeddings) <= images  # else a table has more pairs
    if link == "softmax" and of_classes and tabled:
        # The barrier keeps the compiler from multiplying them itself: it would take a minute for a thousand classes.
        texts = jax.lax.optimization_barrier(jnp.asarray(how.class_embeddings))
        table = cosines(texts, texts)
        return _means(class_table_rows(own, table, target, tau, how), len(anchors["z"]) - 1)
    keys, count = None, jnp.sum(anchors["filled"]) - 1
    if not same:
        block = concatenate([select(blocks, rows, images) for rows in term.key_rows])
        count = jnp.sum(block["filled"])
        keys = tiles.Rows(block["z"], *_side(block, graph, term.key_rows, images))
    if link != "softmax":
        return streamed_sigmoid(own, keys, target, (tau, bias), how, link == "sigmoid_mean")
    rows = streaming_rows(own, keys, target, tau, how)
    return _means(rows, count)


def _of_views(graph: Graph) -> frozenset[str]:
    """Side information of a graph that differs between the views of an image."""
    return frozenset(name for name in requires(graph) if name in OF_VIEWS or name.startswith("view_"))


def _means(rows: dict[str, jax.Array], keys: jax.Array | int) -> tuple[jax.Array, dict[str, jax.Array]]:
    """(loss, metrics): means over the anchors that count. keys: of every anchor, all of them negatives."""
    rows = dict(rows)
    counted = rows.pop("counted")
    metrics = {name: mean_over_rows(value, counted) for name, value in rows.items()}
    metrics |= {"rows_without_positive": 1.0 - jnp.mean(counted)}
    return metrics.pop("loss"), metrics | {"rows_without_negative": jnp.where(keys > 0, 0.0, 1.0)}


def _side(block: Block, graph: Graph, rows: tuple[Rows, ...], images: int) -> tuple[dict[str, jax.Array], int]:
    """(side information that the graph and the metrics read, views it is shared by): per image where views share it.

    Where all rows of a block are filled, that entry would only keep the kernels away.
    """
    names = {"id", "label", *requires(graph)} & set(block)
    if any(one.block in PARTLY_FILLED for one in rows):
        names.add("filled")
    shared = not _of_views(graph) and len(rows) == 1 and rows[0].view is None and rows[0].block not in ROWS_OF_NO_IMAGE
    views = max(len(block["z"]) // images, 1) if shared else 1
    return {name: block[name][::views] for name in names}, views

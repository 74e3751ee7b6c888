"""Which terms of an objective the streaming loss can do, and how: the dense value with memory linear in the rows."""

import dataclasses
from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from xsample_jax.graphs.sources import ONE_WAY
from xsample_jax.graphs.targets import LOCAL, Graph, Mixture, bounds_after, requires, similarity
from xsample_jax.objectives.cross_entropy import mean_over_rows
from xsample_jax.objectives.streaming.class_table import class_table_rows
from xsample_jax.objectives.streaming.loss import LOWEST_STATIC, streaming_rows
from xsample_jax.objectives.terms import Block, Rows, Term, concatenate, select
from xsample_jax.ops import cosines
from xsample_jax.registry import name_of

# Pairs above which "auto" streams on one device: a dense matrix of them takes 64 MiB, and the dense loss a dozen.
LARGEST_DENSE = 2**24

# Side information that differs between the views of an image, besides the single views "view_0", ...
OF_VIEWS = ("teacher", "embedding", "other_view", "box", "row")
# Blocks whose rows are not views of the images of the batch.
ROWS_OF_NO_IMAGE = ("queue", "text_queue", "prototypes")
# Sources that are the cosine of one entry of the side information.
COSINES = {"caption": "caption_embedding", "class_text": "class_embedding"}


@dataclasses.dataclass(frozen=True)
class Streaming:
    """How a loss is computed.

    Attributes:
      impl: auto (streaming where it is possible, if there are several devices or the dense matrices would be large),
        dense or streaming.
      block_size: rows of a tile.
      kernel: who computes the tiles: auto, pallas or xla (streaming.py).
      collective: how devices see each other's rows: gather, ring or auto (streaming_mesh.py).
      comm_dtype: type in which embeddings travel between devices: float32 or bfloat16.
      caption_comm_dtype: type in which frozen embeddings travel: float16, int8, or float32 (as they are).
      mesh: over whose axes rows are split; None for one device.
      lowest_temperature: what the base temperature cannot go below.
      class_embeddings: of the texts of all classes [classes, E], for graphs of class texts; None: they are compared by
        the pair, as captions are.
    """

    impl: str = "auto"
    block_size: int = 1024
    kernel: str = "xla"
    collective: str = "auto"
    comm_dtype: str = "float32"
    caption_comm_dtype: str = "float16"
    mesh: Mesh | None = None
    lowest_temperature: float | None = None
    class_embeddings: np.ndarray | None = None

    def wants(self, reason: str | None, anchors: int, keys: int) -> bool:
        """Whether a term on this many rows is streamed; reason: why it cannot be (objective.find_unstreamable)."""
        several = self.mesh is not None and self.mesh.size > 1
        worth_it = several or anchors * keys > LARGEST_DENSE
        return self.impl == "streaming" or (self.impl == "auto" and worth_it and reason is None)


def why_not(term: Term) -> str | None:
    """Why a term needs the whole matrix, in words; None if it can be streamed."""
    if not term.is_cross_entropy:
        return "its denominator, link or weights are not those of the plain cross-entropy"
    if name_of(term.similarity) != "dot" or term.mixer or term.merge_views or term.self_pairs or term.self_targets:
        return "its similarity, synthetic keys or merged views need all pairs at once"
    if not isinstance(term.temperature, float | int) and term.temperature != "base":
        return f"its temperature rule {name_of(term.temperature)!r} is not one number"
    if isinstance(term.graph, Mixture):
        return "its target is a mixture of graphs"
    graph, same = term.graph, term.anchors == term.keys
    if name_of(graph.normalizer) not in ("softmax", "row_sum"):
        return f"its normalizer {name_of(graph.normalizer)!r} needs whole rows"
    if any(name_of(transform) not in LOCAL for transform in graph.transforms):
        return "a transform of its graph needs whole rows"
    if graph.target_temperature is not None and not isinstance(graph.target_temperature, float | int):
        return "its tau_s is a rule"
    if any(rows.beside or rows.times for rows in (term.anchors, *term.key_rows)):
        return "its rows are made of several modalities"
    if not same and any(rows.block == term.anchors.block for rows in term.key_rows):
        return "its anchors are some of its keys"
    if same and name_of(graph.source) in ONE_WAY:
        return f"its source {name_of(graph.source)!r} is not symmetric"
    return None


def why_no_kernels(term: Term, objective_lowest: float, target_temperature: float, center: bool) -> str | None:
    """Why the kernels of streaming_kernel.py cannot do a term that can be streamed, in words; None if they can.

    objective_lowest: what the objective's tau cannot go below; target_temperature: its tau_s.
    """
    graph = term.graph
    if graph.source == "class_text" and not graph.transforms and not center:
        return "a graph of class texts has a table instead of tiles"
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
    temperature: jax.Array | float,
    target_temperature: float,
    how: Streaming,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Value and metrics of a term (terms.term_value, terms.graph_metrics) without any array of pairs."""
    graph, same = term.graph, term.anchors == term.keys
    anchors = select(blocks, term.anchors, images)
    u, views = _side(anchors, graph, (term.anchors,), images)
    own_tau = isinstance(term.temperature, float | int)
    options = {
        "normalizer": name_of(graph.normalizer),
        "temperature": term.temperature if own_tau else temperature,
        "target_temperature": graph.target_temperature or target_temperature,
        "views": views,
        "lowest_temperature": None if own_tau else how.lowest_temperature,
        "tile": how.block_size,
        "mesh": how.mesh,
        "exchange": how.collective,
        "wire": jnp.bfloat16 if how.comm_dtype == "bfloat16" else None,
    }
    if same and graph.source == "class_text" and not graph.transforms and how.class_embeddings is not None:
        # The barrier keeps the compiler from multiplying them itself: it would take a minute for a thousand classes.
        texts = jax.lax.optimization_barrier(jnp.asarray(how.class_embeddings))
        table = cosines(texts, texts)
        return _means(class_table_rows(anchors["z"], u["label"], table, **options), len(anchors["z"]) - 1)
    keys, v, key_views = None, None, 1
    count = jnp.sum(anchors["filled"]) - 1
    if not same:
        block = concatenate([select(blocks, rows, images) for rows in term.key_rows])
        keys, count = block["z"], jnp.sum(block["filled"])
        v, key_views = _side(block, graph, term.key_rows, images)
    rows = streaming_rows(
        anchors["z"],
        keys,
        u,
        v,
        source=partial(similarity, graph, valid=None),
        bounds=bounds_after(graph.transforms),
        key_views=key_views,
        caption_wire=jnp.dtype(how.caption_comm_dtype),
        tiles=how.kernel,
        cosine_of=None if graph.transforms else COSINES.get(name_of(graph.source)),
        **options,
    )
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

    Only of a queue some rows may not be filled; of any other block that entry would only keep the kernels away.
    """
    names = {"id", "label", *requires(graph)} & set(block)
    if any(one.block in ("queue", "text_queue") for one in rows):
        names.add("filled")
    shared = not _of_views(graph) and len(rows) == 1 and rows[0].view is None and rows[0].block not in ROWS_OF_NO_IMAGE
    views = max(len(block["z"]) // images, 1) if shared else 1
    return {name: block[name][::views] for name in names}, views

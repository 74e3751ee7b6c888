"""A target graph as data: a source, what is done to its similarities, a normalizer; or a mixture of such graphs.

The last part derives the values of a graph (negative, zero, masked) for the check of the config.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from xsample_jax.errors import ConfigError, DataError
from xsample_jax.graphs.sources import SOURCES, nearest
from xsample_jax.registry import Choice, Slot, name_of, options_of, resolve, slot_of

# From similarities to target distributions: the rows of a target graph T sum to one over the valid keys.
#
# Every normalizer is `f(similarity [A, K], valid bool [A, K], target_temperature) -> T [A, K]`, zero where invalid.


MASKED = -1e9  # finite, so that 0 * MASKED is 0 and never NaN


def softmax(similarity: jax.Array, valid: jax.Array, target_temperature: float) -> jax.Array:
    """T_ik = exp(G_ik / tau_s) / sum over valid k of the same (X-CLR)."""
    logits = jnp.where(valid, similarity / target_temperature, MASKED)
    return jnp.where(valid, jax.nn.softmax(logits, axis=-1), 0.0)


def row_sum(similarity: jax.Array, valid: jax.Array, target_temperature: float | None = None) -> jax.Array:
    """T_ik = G_ik / sum over valid k of G_ik (SupCon, CWCL), for G >= 0. A row without any positive stays all zero."""
    del target_temperature
    weight = jnp.where(valid, similarity, 0.0)
    return weight / jnp.maximum(weight.sum(axis=-1, keepdims=True), 1e-12)


def sinkhorn(similarity: jax.Array, valid: jax.Array, target_temperature: float, *, iterations: int = 3) -> jax.Array:
    """Balanced assignment (Cuturi 2013; SwAV, arXiv 2006.09882): exp(G / tau_s), then columns and rows in turn.

    Columns are scaled to sum to A / K, rows to 1, `iterations` times; rows last, so that every row is a distribution.
    Kept as logarithms: a row that is far below the others would be all zeros.
    """

    def scaled(plan: jax.Array, axis: int) -> jax.Array:
        total = jax.nn.logsumexp(plan, axis=axis, keepdims=True)
        return plan - jnp.where(jnp.isfinite(total), total, 0.0)  # of no valid pair at all

    rows, columns = similarity.shape
    plan = jnp.where(valid, similarity / target_temperature, -jnp.inf)
    for _ in range(iterations):
        plan = scaled(scaled(plan, 0) + math.log(rows / columns), 1)
    return jnp.exp(plan)


def none(similarity: jax.Array, valid: jax.Array, target_temperature: float | None = None) -> jax.Array:
    """T_ik = G_ik: for the links that look at single pairs, and for sums over positives instead of means."""
    del target_temperature
    return jnp.where(valid, similarity, 0.0)


NORMALIZERS = {
    "softmax": Slot(softmax),
    "row_sum": Slot(row_sum),
    "sinkhorn": Slot(sinkhorn, limits={"iterations": (1, 1000)}),
    "none": Slot(none),
}
WITH_TEMPERATURE = ("softmax", "sinkhorn")
NON_NEGATIVE = ("row_sum", "none")  # normalizers that need similarities >= 0: cosines are not


# Changes of a similarity before it is normalized: `f(similarity [A, K], valid [A, K], **options) -> [A, K]`.


def affine(similarity: jax.Array, valid: jax.Array, *, scale: float = 0.5, offset: float = 0.5) -> jax.Array:
    """scale * G + offset; the defaults map cosines to [0, 1] (CWCL, arXiv 2309.14580)."""
    del valid
    return scale * similarity + offset


def power(similarity: jax.Array, valid: jax.Array, *, exponent: float) -> jax.Array:
    """max(G, 0) ** exponent: a larger exponent keeps only close neighbors."""
    del valid
    return jnp.maximum(similarity, 0.0) ** exponent


def threshold(similarity: jax.Array, valid: jax.Array, *, at: float, binary: bool = False) -> jax.Array:
    """Similarities below `at` become 0; with `binary` the others become 1."""
    del valid
    kept = similarity >= at
    return kept.astype(similarity.dtype) if binary else jnp.where(kept, similarity, 0.0)


def top_k(similarity: jax.Array, valid: jax.Array, *, k: int, masked: bool = True) -> jax.Array:
    """Keeps the k most similar valid keys of every row (more on ties); the others become -1e9, or 0 if not `masked`."""
    among = jnp.where(valid, similarity, -jnp.inf)
    lowest = jax.lax.top_k(among, min(k, similarity.shape[-1]))[0][:, -1:]
    return jnp.where(among >= lowest, similarity, MASKED if masked else 0.0)


TRANSFORMS = {
    "affine": Slot(affine),
    "power": Slot(power, limits={"exponent": (1e-6, None)}),
    "threshold": Slot(threshold),
    "top_k": Slot(top_k, limits={"k": (1, None)}),
    "nearest": Slot(nearest, limits={"k": (1, None), "order": (1, 8)}),
}
LOCAL = ("affine", "power", "threshold")  # what a tile can do without seeing the whole row


def bounds_after(transforms: Sequence[Choice], lowest: float = -1.0, highest: float = 1.0) -> tuple[float, float]:
    """Between which values similarities within [lowest, highest] lie after some of the LOCAL transforms."""
    for transform in transforms:
        change = resolve(TRANSFORMS, transform, "graph.transforms")
        with jax.ensure_compile_time_eval():
            ends = [float(change(jnp.asarray(end), None)) for end in (lowest, highest)]
        # affine may turn them around; the others put what is small to 0, and may keep what is below it.
        if name_of(transform) != "affine":
            ends += [0.0, lowest]
        lowest, highest = min(ends), max(ends)
    return lowest, highest


# Choosing tau_s: what the target softmax says depends on the batch size and on how a text encoder spreads its
# cosines.
#
# Instead of a number the target temperature may be a rule on the batch at hand, solved by bisection on log tau_s:
#
#     neighbors   exp(mean entropy of the rows of T) = count            how many keys a row points at
#     same_mass    mean target mass on keys with the anchor's own text (similarity 1) = mass


LOWEST, HIGHEST, STEPS, ROWS = 1e-3, 1e2, 40, 256
SAME = 1 - 1e-3  # float16 embeddings of one text have a cosine of 1 to about this


def neighbors(similarity: jax.Array, valid: jax.Array, *, count: float) -> jax.Array:
    """tau_s at which a row of T has `count` effective neighbors."""

    def effective(tau_s):
        graph = softmax(similarity, valid, tau_s)
        entropy = -jnp.sum(jnp.where(graph > 0, graph * jnp.log(jnp.where(graph > 0, graph, 1.0)), 0.0), axis=-1)
        return jnp.exp(jnp.mean(entropy))

    return _rising(effective, count)


def same_mass(similarity: jax.Array, valid: jax.Array, *, mass: float) -> jax.Array:
    """tau_s at which rows that have a key with their own text put the mass `mass` on such keys."""
    same = valid & (similarity >= SAME)
    has_one = jnp.any(same, axis=-1)

    def elsewhere(tau_s):
        on_same = jnp.sum(jnp.where(same, softmax(similarity, valid, tau_s), 0.0), axis=-1)
        return 1 - jnp.sum(jnp.where(has_one, on_same, 0.0)) / jnp.maximum(jnp.sum(has_one), 1)

    return _rising(elsewhere, 1 - mass)


RULES = {
    "neighbors": Slot(neighbors, limits={"count": (1, None)}),
    "same_mass": Slot(same_mass, limits={"mass": (0, 1)}),
}


def solve_temperature(rule: Choice | float, similarity: jax.Array, valid: jax.Array) -> jax.Array | float:
    """tau_s from a number (itself) or a rule on the first 256 rows of a batch. No gradient."""
    if isinstance(rule, float | int):
        return rule
    solve = resolve(RULES, rule, "target_temperature")
    return jax.lax.stop_gradient(solve(similarity[:ROWS], valid[:ROWS]))


def _rising(value: Callable[[jax.Array], jax.Array], wanted: float) -> jax.Array:
    """The tau_s in [1e-3, 1e2] at which a rising function is `wanted`; an end of the range if it never is."""

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        below = value(jnp.exp(middle)) < wanted
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    low, high = jax.lax.fori_loop(0, STEPS, halve, (jnp.log(LOWEST), jnp.log(HIGHEST)))
    return jnp.exp((low + high) / 2)


# Weights of terms and of graphs that depend on the share of the run that is over: a number, or a rule
# `f(progress, share, **options) -> scalar`. No gradient flows through them.


def before(progress: jax.Array | float, *, share: float, weight: float = 1.0) -> jax.Array:
    """`weight` until `share` of the run is over, then 0."""
    return jnp.where(progress < share, weight, 0.0)


def after(progress: jax.Array | float, *, share: float, weight: float = 1.0) -> jax.Array:
    """0 until `share` of the run is over, then `weight`."""
    return jnp.where(progress < share, 0.0, weight)


def ramp(
    progress: jax.Array | float, *, share: float, weight: float = 1.0, start: float = 0.0, initial: float = 0.0
) -> jax.Array:
    """`initial` until the share `start` of the run is over, `weight` from `share` on, linear in between."""
    done = jnp.clip((progress - start) / jnp.maximum(share - start, 1e-9), 0.0, 1.0)
    return (1 - done) * initial + done * weight


_SHARE = {"share": (0, 1)}
PROGRESS_RULES = {
    "before": Slot(before, limits=_SHARE),
    "after": Slot(after, limits=_SHARE),
    "ramp": Slot(ramp, limits={**_SHARE, "start": (0, 1)}),
}


def weight_at(weight: Choice | float, progress: jax.Array | float) -> jax.Array | float:
    """A weight when the share `progress` of the run is over."""
    if isinstance(weight, float | int):
        return weight
    return jax.lax.stop_gradient(resolve(PROGRESS_RULES, weight, "weight")(progress))


def scaled_weight(weight: Choice | float, factor: float) -> Choice | float:
    """A weight times a number, at all times."""
    if isinstance(weight, float | int):
        return weight * factor
    options = options_of(weight)
    levels = {name: options.get(name, default) * factor for name, default in (("weight", 1.0), ("initial", 0.0))}
    levels = {name: value for name, value in levels.items() if name == "weight" or name in options}
    return {"name": name_of(weight), **options, **levels}


def highest_weight(weight: Choice | float) -> float:
    """The largest that a weight gets during a run, by its absolute value."""
    if isinstance(weight, float | int):
        return weight
    levels = [options_of(weight).get("weight", 1.0), options_of(weight).get("initial", 0.0)]
    return max(levels, key=abs)


@dataclasses.dataclass(frozen=True)
class Graph:
    """One target graph.

    Attributes:
      source: what should be similar (graphs/sources.py).
      normalizer: how rows become distributions (graphs/targets.py).
      transforms: changes of the similarity in between (graphs/targets.py), in order.
      target_temperature: tau_s of the normalizer, a number or a rule (graphs/targets.py); None: the objective's.
    """

    source: Choice = "identity"
    normalizer: Choice = "row_sum"
    transforms: tuple[Choice, ...] = ()
    target_temperature: Choice | float | None = None


@dataclasses.dataclass(frozen=True)
class Mixture:
    """sum_m weights[m] * T_m: label smoothing, and hard targets softened by a teacher (SCE, ALBEF).

    weights: numbers, or rules of progress (PROGRESS_RULES). ramp: share of the run over which numbers move linearly
    from 1 on the first graph alone to `weights`; 0: none.
    """

    graphs: tuple[Graph, ...]
    weights: tuple[Choice | float, ...]
    ramp: float = 0.0

    def weights_at(self, progress: jax.Array | float) -> tuple:
        """The weights when the share `progress` of the run is over."""
        if not self.ramp:
            return tuple(weight_at(weight, progress) for weight in self.weights)
        done = jnp.minimum(progress / self.ramp, 1.0)
        return tuple((1 - done) * (number == 0) + done * weight for number, weight in enumerate(self.weights))


def parts_of(graph: Graph | Mixture) -> tuple[Graph, ...]:
    """The single graphs of a graph."""
    return graph.graphs if isinstance(graph, Mixture) else (graph,)


def similarity(graph: Graph, u: dict, v: dict, valid: jax.Array | None) -> jax.Array:
    """The transformed similarities [A, K] of one graph, before the normalizer.

    On a tile `valid` is None: its transforms (LOCAL) do not look at it.
    """
    values = resolve(SOURCES, graph.source, "graph.source")(u, v)
    for transform in graph.transforms:
        values = resolve(TRANSFORMS, transform, "graph.transforms")(values, valid)
    return values


def target(
    graph: Graph | Mixture, u: dict, v: dict, valid: jax.Array, target_temperature, progress: jax.Array | float = 1.0
) -> jax.Array:
    """The target T [A, K] of a graph over the valid pairs when the share `progress` of the run is over.

    No gradient flows into it.
    """
    if isinstance(graph, Mixture):
        parts = [target(part, u, v, valid, target_temperature) for part in graph.graphs]
        return sum(weight * part for weight, part in zip(graph.weights_at(progress), parts, strict=True))
    values = similarity(graph, u, v, valid)
    tau_s = solve_temperature(graph.target_temperature or target_temperature, values, valid)
    normalize = resolve(NORMALIZERS, graph.normalizer, "graph.normalizer")
    return jax.lax.stop_gradient(normalize(values, valid, tau_s))


def source_slots(graph: Graph | Mixture) -> tuple[Slot, ...]:
    """The sources of a graph, with what they read."""
    return tuple(slot_of(SOURCES, part.source, "graph.source") for part in parts_of(graph))


def requires(graph: Graph | Mixture) -> frozenset[str]:
    """Side information that the graph reads, besides the id."""
    return frozenset(name for slot in source_slots(graph) for name in slot.anchor_reads | slot.key_reads) - {"id"}


def describe(graph: Graph | Mixture) -> str:
    """The graph in a line, as "softmax(caption)" or "0.9 row_sum(identity) + 0.1 row_sum(uniform)"."""
    if isinstance(graph, Mixture):
        parts = zip(graph.weights, graph.graphs, strict=True)
        ramp = f" after a ramp over {graph.ramp:.3g} of the run" if graph.ramp else ""
        return " + ".join(f"{describe_weight(weight)} {describe(part)}" for weight, part in parts) + ramp
    inner = _word(graph.source)
    for transform in graph.transforms:
        inner = f"{_word(transform)} of {inner}"
    return f"{_word(graph.normalizer)}({inner})" if name_of(graph.normalizer) != "none" else inner


def describe_weight(weight: Choice | float) -> str:
    """A weight in words, as "0.9" or "0.1 after 0.33 of the run"."""
    if isinstance(weight, float | int):
        return f"{weight:g}"
    options = {"weight": 1.0, "initial": 0.0, "start": 0.0} | options_of(weight)
    level, share = f"{options['weight']:g}", f"{options['share']:.3g} of the run"
    if name_of(weight) != "ramp":
        return f"{level} {name_of(weight)} {share}"
    return f"{options['initial']:g} to {level} from {options['start']:.3g} to {share}"


def _word(choice: Choice) -> str:
    options = ", ".join(f"{name}={value}" for name, value in options_of(choice).items())
    return name_of(choice) + (f"[{options}]" if options else "")


def fold_views(graph: np.ndarray, views: int) -> np.ndarray:
    """Folds a row-stochastic graph over rows to one over images.

    Args:
      graph: float [V*B, V*B], row = image * V + view.

    Returns:
      float32 [B, B]: mean over the views of the row's image, sum over the views of the column's image. Rows still sum
      to 1 and the diagonal is the mass on an image's own other views.
    """
    graph = np.asarray(graph, np.float64)
    count, rest = divmod(len(graph), views)
    if rest or graph.shape != (len(graph), len(graph)):
        raise DataError("graph", graph.shape, f"a square whose side is a multiple of the {views} views")
    return graph.reshape(count, views, count, views).sum(axis=3).mean(axis=1).astype(np.float32)


# What values a graph can have, and what a normalizer cannot take of them.

# Sources whose values can be negative: a row sum of them is not a distribution.
SIGNED = (
    "caption",
    "class_text",
    "teacher",
    "self_similarity",
    "text_similarity",
    "image_similarity",
    "swapped",
    "swapped_keys",
    "swapped_pair",
    "past",
    "random",
)
# Sources that are zero for some pairs.
WITH_ZEROS = (
    "identity",
    "same_record",
    "label",
    "labels",
    "cluster",
    "same_target",
    "other_label",
    "second_label",
    "own_center",
    "geometry",
    "mixed",
    "mixed_keys",
    "mixed_labels",
    "mixed_classes",
)


def value_bounds(part: Graph) -> tuple[float, float]:
    """Between which values the similarities of a graph lie after its transforms."""
    lowest, highest = (-1.0 if name_of(part.source) in SIGNED else 0.0), 1.0
    for transform in part.transforms:
        if name_of(transform) in LOCAL:
            lowest, highest = bounds_after((transform,), lowest, highest)
        else:
            lowest, highest = min(lowest, 0.0), max(highest, 0.0)
        if name_of(transform) == "threshold" and options_of(transform)["at"] >= 0:
            lowest = 0.0
        if name_of(transform) == "power":
            lowest = 0.0
        if name_of(transform) == "nearest":
            lowest, highest = 0.0, 1.0
    return lowest, highest


def find_masked(part: Graph, field: str) -> Iterator[ConfigError]:
    """Pairs that are masked with a large negative number need a softmax right after it."""
    masked = [number for number, one in enumerate(part.transforms) if is_masked_top_k(one)]
    soft = name_of(part.normalizer) in WITH_TEMPERATURE
    if masked and (not soft or masked[-1] != len(part.transforms) - 1 or len(masked) > 1):
        fix = "Set its option masked=False, or take the normalizer softmax."
        expected = "a masking top_k only as the last transform before a softmax: it leaves out what it does not keep"
        yield ConfigError(f"{field}.graph.transforms", describe(part), expected, fix)
    without_own = name_of(part.source) == "teacher" and not options_of(part.source).get("own", True)
    if without_own and (not soft or len(masked) < len(part.transforms)):
        expected = "the normalizer softmax or sinkhorn and no transform: own=False leaves the own pair out"
        yield ConfigError(f"{field}.graph", describe(part), expected)


def is_masked_top_k(transform: Choice) -> bool:
    return name_of(transform) == "top_k" and options_of(transform).get("masked", True)


def has_zeros(part: Graph) -> bool:
    """Whether some pairs of a graph have no target."""
    if name_of(part.normalizer) in WITH_TEMPERATURE:
        return any(is_masked_top_k(one) for one in part.transforms)
    zeros = name_of(part.source) in WITH_ZEROS
    for transform in part.transforms:
        options = options_of(transform)
        if name_of(transform) == "affine":
            zeros = zeros and options.get("offset", 0.5) == 0
        elif name_of(transform) == "threshold":
            zeros = zeros or options["at"] > 0
        else:
            zeros = zeros or name_of(part.source) in SIGNED or name_of(transform) in ("top_k", "nearest")
    return zeros

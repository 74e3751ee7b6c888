"""A target graph as data: a source, what is done to its similarities, a normaliser; or a mixture of such graphs."""

import dataclasses

import jax

from xsample_jax.choice import Choice, name_of, options_of, resolve
from xsample_jax.graphs.normalise import NORMALISERS
from xsample_jax.graphs.sources import REQUIRES, SOURCES
from xsample_jax.graphs.temperature import solved
from xsample_jax.graphs.transforms import TRANSFORMS


@dataclasses.dataclass(frozen=True)
class Graph:
    """One target graph.

    Attributes:
      source: what should be similar (graphs/sources.py).
      normaliser: how rows become distributions (graphs/normalise.py).
      transforms: changes of the similarity in between (graphs/transforms.py), in order.
      target_temperature: tau_s of the normaliser, a number or a rule (graphs/temperature.py); None: the objective's.
    """

    source: Choice = "identity"
    normaliser: Choice = "row_sum"
    transforms: tuple[Choice, ...] = ()
    target_temperature: Choice | float | None = None


@dataclasses.dataclass(frozen=True)
class Mixture:
    """sum_m weights[m] * T_m: label smoothing, and hard targets softened by a teacher (SCE, ALBEF)."""

    graphs: tuple[Graph, ...]
    weights: tuple[float, ...]


def parts_of(graph: Graph | Mixture) -> tuple[Graph, ...]:
    """The single graphs of a graph."""
    return graph.graphs if isinstance(graph, Mixture) else (graph,)


def similarity(graph: Graph, u: dict, v: dict, valid: jax.Array | None) -> jax.Array:
    """The transformed similarities [A, K] of one graph, before the normaliser.

    On a tile `valid` is None: its transforms (transforms.LOCAL) do not look at it.
    """
    values = resolve(SOURCES, graph.source, "graph.source")(u, v)
    for transform in graph.transforms:
        values = resolve(TRANSFORMS, transform, "graph.transforms")(values, valid)
    return values


def target(graph: Graph | Mixture, u: dict, v: dict, valid: jax.Array, target_temperature) -> jax.Array:
    """The target T [A, K] of a graph over the valid pairs. No gradient flows into it."""
    if isinstance(graph, Mixture):
        parts = [target(part, u, v, valid, target_temperature) for part in graph.graphs]
        return sum(weight * part for weight, part in zip(graph.weights, parts, strict=True))
    values = similarity(graph, u, v, valid)
    tau_s = solved(graph.target_temperature or target_temperature, values, valid)
    normalise = resolve(NORMALISERS, graph.normaliser, "graph.normaliser")
    return jax.lax.stop_gradient(normalise(values, valid, tau_s))


def requires(graph: Graph | Mixture) -> frozenset[str]:
    """Entries of a batch that the graph reads, besides the id."""
    return frozenset(name for part in parts_of(graph) for name in REQUIRES.get(name_of(part.source), ()))


def describe(graph: Graph | Mixture) -> str:
    """The graph in a line, as "softmax(caption)" or "0.9 row_sum(identity) + 0.1 row_sum(uniform)"."""
    if isinstance(graph, Mixture):
        parts = zip(graph.weights, graph.graphs, strict=True)
        return " + ".join(f"{weight:g} {describe(part)}" for weight, part in parts)
    inner = _word(graph.source)
    for transform in graph.transforms:
        inner = f"{_word(transform)} of {inner}"
    return f"{_word(graph.normaliser)}({inner})" if name_of(graph.normaliser) != "none" else inner


def _word(choice: Choice) -> str:
    options = ", ".join(f"{name}={value}" for name, value in options_of(choice).items())
    return name_of(choice) + (f"[{options}]" if options else "")

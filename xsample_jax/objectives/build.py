"""From a config to an objective: a preset with some of its values replaced, or terms written out in full."""

import dataclasses
from collections.abc import Mapping

from xsample_jax.choice import name_of, resolve
from xsample_jax.errors import ConfigError, Problems, UserError, did_you_mean, lookup
from xsample_jax.graphs.combine import Graph, Mixture, parts_of
from xsample_jax.graphs.normalise import NON_NEGATIVE, NORMALISERS
from xsample_jax.graphs.sources import SOURCES
from xsample_jax.graphs.temperature import RULES as TARGET_RULES
from xsample_jax.graphs.transforms import TRANSFORMS
from xsample_jax.objectives.blocks import Rows
from xsample_jax.objectives.cross_entropy import AGGREGATES, DENOMINATORS
from xsample_jax.objectives.features import FEATURE_TERMS
from xsample_jax.objectives.links import LINKS
from xsample_jax.objectives.mixing import MIXERS
from xsample_jax.objectives.negatives import NEGATIVES
from xsample_jax.objectives.objective import Objective
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.objectives.similarity import SIMILARITIES
from xsample_jax.objectives.temperature import TEMPERATURES
from xsample_jax.objectives.terms import FeatureTerm, Term
from xsample_jax.objectives.weights import WEIGHTS

# Sources whose values can be negative: a row sum of them is no distribution.
SIGNED = ("caption", "class_text", "teacher", "self_similarity", "text_similarity", "swapped", "swapped_keys", "random")

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


def build_objective(config) -> Objective:
    """The objective of the section `config.objective`: its preset, with the config's values where it has any.

    `objective.terms` replaces the preset's terms: a tuple of dicts with the fields of Term (or of FeatureTerm, for one
    with a `name`). Raises Problems (a ConfigError) with everything that is wrong.
    """
    objective = lookup(PRESETS, config["preset"], "objective.preset").objective
    fields = ("temperature", "learn_temperature", "target_temperature", "teacher", "queue", "prototypes")
    changes = {name: config[name] for name in fields if config[name] is not None}
    changes["centre"] = config["centre"]
    rules = {"neighbours": ("count", config["target_neighbours"]), "same_mass": ("mass", config["target_same_mass"])}
    for rule, (option, value) in rules.items():
        if value is not None:
            changes["target_temperature"] = {"name": rule, option: value}
    if config["terms"] is not None:
        made = [term_from_dict(term, f"objective.terms[{number}]") for number, term in enumerate(config["terms"])]
        changes["terms"] = tuple(term for term in made if isinstance(term, Term))
        changes["feature_terms"] = tuple(term for term in made if isinstance(term, FeatureTerm))
    objective = dataclasses.replace(objective, **changes)
    if config["graph"] is not None:
        lookup(SOURCES, config["graph"], "objective.graph")
        objective = dataclasses.replace(
            objective, terms=tuple(_with_source(term, config["graph"]) for term in objective.terms)
        )
    problems = list(find_problems(objective))
    if problems:
        raise problems[0] if len(problems) == 1 else Problems(problems, "the objective")
    return objective


def term_from_dict(values: Mapping, field: str) -> Term | FeatureTerm:
    """A term from plain data; ConfigError for a field that a term does not have."""
    values = dict(values)
    kind = FeatureTerm if "name" in values else Term
    values = {name: _value(name, value, field) for name, value in values.items()}
    return _made(kind, values, field)


def find_problems(objective: Objective):
    """Yields one ConfigError for everything in an objective that is unknown or does not go together."""
    for number, term in enumerate(objective.terms):
        field = f"objective.terms[{number}]"
        yield from _unknown(LINKS | {"softmax": None}, term.link, f"{field}.link", skip=("softmax",))
        for name, registry in CHOICES.items():
            choice = getattr(term, name)
            if choice is not None and not isinstance(choice, int | float):
                yield from _unknown(registry, choice, f"{field}.{name}")
        for part in parts_of(term.graph):
            yield from _unknown(SOURCES, part.source, f"{field}.graph.source")
            yield from _unknown(NORMALISERS, part.normaliser, f"{field}.graph.normaliser")
            for transform in part.transforms:
                yield from _unknown(TRANSFORMS, transform, f"{field}.graph.transforms")
            yield from _negative_weights(part)
    for number, term in enumerate(objective.feature_terms):
        yield from _unknown(FEATURE_TERMS, term.name, f"objective.feature_terms[{number}].name")
    if not isinstance(objective.target_temperature, int | float):
        yield from _unknown(TARGET_RULES, objective.target_temperature, "objective.target_temperature")
    if not objective.terms and not objective.feature_terms:
        yield ConfigError("objective.terms", (), "at least one term")
    if objective.centre and not any(
        name_of(part.source) in ("caption", "class_text") for term in objective.terms for part in parts_of(term.graph)
    ):
        yield ConfigError(
            "objective.centre",
            True,
            "false: no target graph of this objective is made of text embeddings",
            "Set --config.objective.centre=false, or --config.objective.preset=xclr.",
        )


def needed_views(objective: Objective) -> int:
    """Views of an image that the objective compares at least."""
    views = [1 if rows.view is None else rows.view + 1 for rows in objective.rows]
    within = any(term.anchors == term.keys == Rows("image") for term in objective.terms)
    return max([*views, 2 if within else 1])


def _with_source(term: Term, source: str) -> Term:
    if not isinstance(term.graph, Graph) or term.anchors.block != "image" or term.keys != term.anchors:
        raise ConfigError(
            "objective.graph",
            source,
            "None for a preset that does not compare images with images along one graph",
            "Set --config.objective.graph=None, or --config.objective.preset=xclr.",
        )
    return dataclasses.replace(term, graph=dataclasses.replace(term.graph, source=source))


def _negative_weights(graph: Graph):
    if name_of(graph.source) in SIGNED and name_of(graph.normaliser) in NON_NEGATIVE and not graph.transforms:
        yield ConfigError(
            "objective.graph",
            name_of(graph.source),
            f"similarities >= 0 for the normaliser {name_of(graph.normaliser)!r}: cosines can be negative",
            "Use a preset with a softmax, as --config.objective.preset=xclr, or the transform affine.",
        )


def _unknown(registry: dict, choice, field: str, skip: tuple[str, ...] = ()):
    if choice in skip:
        return
    try:
        resolve(registry, choice, field)
    except UserError as error:
        yield error


def _value(name: str, value, field: str):
    """Plain data of one field as what a term holds."""
    if name in ("anchors", "x", "y"):
        return _rows(value, f"{field}.{name}")
    if name == "keys" and isinstance(value, list | tuple):
        return tuple(_rows(rows, f"{field}.keys") for rows in value)
    if name == "keys":
        return _rows(value, f"{field}.keys")
    if name == "graph":
        return _graph(value, f"{field}.graph")
    return value


def _rows(value, field: str) -> Rows:
    if isinstance(value, str):
        return Rows(value)
    values = {name: _rows(part, field) if name in ("beside", "times") else part for name, part in value.items()}
    return _made(Rows, values, field)


def _graph(value, field: str) -> Graph | Mixture:
    if isinstance(value, str):
        return Graph(value)
    values = dict(value)
    if "graphs" in values:
        values["graphs"] = tuple(_graph(part, field) for part in values["graphs"])
        values["weights"] = tuple(values.get("weights", ()))
        return _made(Mixture, values, field)
    if "transforms" in values:
        values["transforms"] = tuple(values["transforms"])
    return _made(Graph, values, field)


def _made(kind: type, values: dict, field: str):
    known = [item.name for item in dataclasses.fields(kind)]
    for name in values:
        if name not in known:
            raise ConfigError(f"{field}.{name}", values[name], f"a field of {kind.__name__}", did_you_mean(name, known))
    return kind(**values)

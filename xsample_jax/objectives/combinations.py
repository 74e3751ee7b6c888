"""Which choices of a term can be combined: the check of the config refuses the others, with the reason.

Everything about single slots (what they read, need and accept) is derived from their declarations (registry.Slot); the
rules below are about pairs of them.
"""

import dataclasses
from collections.abc import Iterator

from xsample_jax.errors import ConfigError
from xsample_jax.graphs.targets import (
    NON_NEGATIVE,
    Graph,
    Mixture,
    describe,
    find_masked,
    has_zeros,
    highest_weight,
    parts_of,
    value_bounds,
)
from xsample_jax.models.heads import map_heads
from xsample_jax.objectives.blocks import OF_VIEWS, Rows
from xsample_jax.objectives.feature_losses import FEATURE_TERMS
from xsample_jax.objectives.learned_state import constants_of, own_temperatures
from xsample_jax.objectives.links import COUNTING, OF_ORDER, OF_SHARES
from xsample_jax.objectives.logits import TEMPERATURES
from xsample_jax.objectives.mixers import MIXERS, OF_LINKS
from xsample_jax.objectives.objective import Objective
from xsample_jax.objectives.row_weights import WEIGHTS
from xsample_jax.objectives.side_information import (
    BY_RECORD,
    EVERY_IMAGE,
    HARD,
    LOCALS,
    MIXED,
    STATES,
    TEXT_VIEWS,
    provider_of,
)
from xsample_jax.objectives.terms import FeatureTerm, Term, chosen_slots
from xsample_jax.registry import Choice, Slot, name_of, options_of, slot_of

# Choices that look for negatives among the pairs without target, by the field of a term.
AMONG_ZEROS = {
    "negatives": ("not_positive", "hardest", "importance"),
    "row_weight": ("focal", "inverse_one_minus_p", "dual_temperature"),
    "attraction": ("focal", "inverse_one_minus_p", "dual_temperature"),
    "repulsion": ("focal", "inverse_one_minus_p", "dual_temperature"),
    "link": ("pairwise", "pairwise_global", "joint", "z", "soft_top_k", "group_order", "conditional"),
    "mixer": tuple(MIXERS),
}
# What only the softmax has: fields of a term with the value that says nothing.
OF_SOFTMAX = {
    "denominator": "shared",
    "aggregate": "out",
    "row_weight": 1.0,
    "attraction": 1.0,
    "repulsion": 1.0,
    "merge_views": False,
}
GRADED = ("importance", "clusters_apart")  # rules whose weights differ
# Blocks without gradient.
WITHOUT_GRADIENT = ("teacher", "text_teacher", "queue", "text_queue", "neighbors", "frozen", "frozen_queue")
WITHOUT_GRADIENT += ("text_views_teacher", "hard_text_teacher", "bank", *LOCALS)
LEVELS = ("weight", "initial")  # options of a rule of progress that are weights
HIGHEST_EXPONENT = 60.0  # e^60 and its gradient are float32 numbers
OF_MEMORY = ("average", "anchor_temperature")


def find_unavailable(term: Term, objective: Objective, field: str) -> Iterator[ConfigError]:
    """What the slots of a term read or need and nothing provides, or the rows that they compare do not carry."""
    for name, choice, slot in chosen_slots(term):
        sides = ((slot.anchor_reads, (term.anchors,)), (slot.key_reads, term.key_rows))
        yield from _unavailable(f"{field}.{name}", choice, slot, sides, objective)
        banked = any(rows.block == "bank" for rows in term.key_rows) and "cluster" in slot.key_reads
        if banked and objective.clusters is None:
            expected = "numbers of clusters: those of a file are not known of the bank's rows"
            yield ConfigError("objective.clusters.k", (), expected, "Set --config.objective.clusters.k='(100,)'.")


def _unavailable(where: str, choice: str, slot: Slot, sides: tuple, objective: Objective) -> Iterator[ConfigError]:
    missing = [state for state in slot.learns if not STATES[state](objective)]
    for state in missing:
        yield _no_state(where, choice, state)
    for read in sorted(slot.anchor_reads | slot.key_reads):
        provider = provider_of(read)
        if provider is None:
            expected = f"another choice: {choice!r} reads {read!r}, which nothing provides yet"
            yield ConfigError(where, choice, expected, "No dataset and no part of an objective has it.")
        elif not missing:
            read_of = [rows for reads, of in sides if read in reads for rows in of]
            for block in sorted({rows.block for rows in read_of if not _carries(rows, provider)}):
                expected = f"a choice that does not read {read!r}, which rows of the block {block!r} do not have"
                fix = f"Blocks that have it: {', '.join(provider.blocks)}."
                yield ConfigError(where, choice, expected, fix)


def _carries(rows: Rows, provider) -> bool:
    return rows.block in provider.blocks and (rows.times is None or provider.blocks == provider_of("id").blocks)


def _no_state(field: str, choice: str, state: str) -> ConfigError:
    from xsample_jax.objectives.presets import PRESETS  # presets are made of terms, which are checked here

    settable = state in ("teacher", "queue", "prototypes", "frozen", "past")
    having = ", ".join(sorted(key for key, preset in PRESETS.items() if STATES[state](preset.objective)))
    words = {
        "average": "moving average per image",
        "anchor_temperature": "temperature per image",
        "frozen": "frozen teacher",
        "frozen_texts": "frozen teacher and a text side",
    }.get(state, state)
    expected = f"an objective with a {words.replace('_', ' ')}, which {choice!r} is made of"
    own = f"Set --config.objective.{state}, or take" if settable else "Take"
    return ConfigError(field, choice, expected, f"{own} a preset that has one: {having}.")


def find_clashes(term: Term, number: int, objective: Objective, field: str) -> Iterator[ConfigError]:
    """Choices of a term that have no meaning together."""
    yield from _graph(term, field)
    yield from _softmax_only(term, field)
    yield from _by_loss(term, field)
    yield from _merged(term, field)
    yield from _zeros(term, f"{field}.graph")
    yield from _rows(term, field)
    for name, rows in [("anchors", term.anchors), *(("keys", rows) for rows in term.key_rows)]:
        yield from _maps(rows, map_heads(objective.heads), f"{field}.{name}")
    yield from _temperature(term, objective, field)
    yield from _memory(term, number, objective, field)
    yield from _views(term, field)
    if term.mixer is not None:
        yield from _synthetic(term, field)


def _synthetic(term: Term, field: str) -> Iterator[ConfigError]:
    """What compares synthetic keys: their rows are of one anchor each, and they have no side information."""
    mixer, link = name_of(term.mixer), name_of(term.link)
    similarities = ("dot", "negative_distance") if mixer in OF_LINKS else ("dot",)
    if name_of(term.similarity) not in similarities:
        expected = f"{' or '.join(similarities)} for a term with a mixer"
        yield ConfigError(f"{field}.similarity", term.similarity, expected)
    if name_of(term.denominator) not in ("shared", "own"):
        expected = "shared or own: synthetic keys have no rank and no view"
        yield ConfigError(f"{field}.denominator", term.denominator, expected)
    if link == "square":
        yield ConfigError(f"{field}.link", term.link, "softmax: synthetic keys are negatives")
    if (mixer in OF_LINKS) != (link in COUNTING):
        expected = f"{' or '.join(COUNTING)} with the mixer {' or '.join(OF_LINKS)}, and only with one"
        yield ConfigError(f"{field}.mixer", mixer, expected)
    if mixer == "semi_hard" and link != "softmax":
        yield ConfigError(f"{field}.mixer", mixer, "the link softmax with the mixer 'semi_hard'")
    if mixer == "between_targets":
        plain = (name_of(term.denominator), term.aggregate, term.reduce) == ("shared", "out", "rows")
        sums = all(name_of(part.normalizer) == "row_sum" for part in parts_of(term.graph))
        if link != "softmax" or not plain or not sums or name_of(term.similarity) != "dot":
            expected = "another mixer: between_targets adds positives to rows of T that sum to one, under one softmax"
            yield ConfigError(f"{field}.mixer", mixer, expected)


def _graph(term: Term, field: str) -> Iterator[ConfigError]:
    """Weights of a mixture, and values that a normalizer or a link cannot take."""
    for transform in (one for part in parts_of(term.graph) for one in part.transforms if name_of(one) == "nearest"):
        options = {"symmetric": False, "order": 1} | options_of(transform)
        if options["symmetric"] and term.keys != term.anchors:
            expected = "false for a term whose keys are not its anchors"
            yield ConfigError(f"{field}.graph.transforms.symmetric", True, expected)
        elif options["order"] > 1 and not options["symmetric"]:
            expected = "1, or symmetric = True: there are no steps from key to key"
            yield ConfigError(f"{field}.graph.transforms.order", options["order"], expected)
    if isinstance(term.graph, Mixture):
        for weight in term.graph.weights:
            levels = [weight] if isinstance(weight, int | float) else [*map(options_of(weight).get, LEVELS)]
            if not all(0 <= level < float("inf") for level in levels if level is not None):
                yield ConfigError(f"{field}.graph.weights", weight, "a finite number, at least 0")
            if term.graph.ramp and not isinstance(weight, int | float):
                yield ConfigError(f"{field}.graph.ramp", term.graph.ramp, "0 for a mixture whose weights are rules")
    link = name_of(term.link)
    for part in parts_of(term.graph):
        normalizer = name_of(part.normalizer)
        yield from find_masked(part, field)
        if link == "square":  # a regression has no weights that could be negative
            continue
        lowest, highest = value_bounds(part)
        if normalizer in NON_NEGATIVE and lowest < 0:
            yield ConfigError(
                "objective.graph",
                describe(part),
                f"similarities >= 0 for the normalizer {normalizer!r}: cosines can be negative",
                "Use a preset with a softmax, as --config.objective.preset=xclr, or the transform affine.",
            )
        if link in OF_SHARES and normalizer == "none" and highest > 1:
            yield ConfigError(f"{field}.graph", describe(part), f"values of at most 1 for the link {link!r}")


def _by_loss(term: Term, field: str) -> Iterator[ConfigError]:
    """Weights by the loss of a row are for the whole row, and of the loss that they multiply."""
    for name in ("attraction", "repulsion"):
        if isinstance(getattr(term, name), Choice) and name_of(getattr(term, name)) == "by_loss":
            yield ConfigError(f"{field}.{name}", "by_loss", "by_loss as the row_weight: it weighs a whole loss")
    if isinstance(term.row_weight, Choice) and name_of(term.row_weight) == "by_loss":
        plain = {"aggregate": "out", "attraction": 1.0, "repulsion": 1.0}
        for name, value in plain.items():
            if getattr(term, name) != value:
                expected = f"{value!r}: the row_weight 'by_loss' is computed of that loss"
                yield ConfigError(f"{field}.{name}", getattr(term, name), expected)


def _merged(term: Term, field: str) -> Iterator[ConfigError]:
    """Merged views are one anchor, and what a weight reads of anchors is of every view."""
    for name in ("row_weight", "attraction", "repulsion") if term.merge_views else ():
        choice = getattr(term, name)
        if isinstance(choice, Choice) and set(slot_of(WEIGHTS, choice, name).anchor_reads) & {"id", *BY_RECORD}:
            yield ConfigError(f"{field}.{name}", choice, "another weight, or merge_views=False: views share an anchor")


def _softmax_only(term: Term, field: str) -> Iterator[ConfigError]:
    link = name_of(term.link)
    for name, default in OF_SOFTMAX.items() if link != "softmax" else ():
        value = getattr(term, name)
        if value != default:
            expected = f"{default!r}: the link {link!r} looks at pairs and has no denominator"
            yield ConfigError(f"{field}.{name}", value, expected, "Take the link softmax, or leave this out.")
    if link != "softmax" and name_of(term.negatives) in GRADED:
        expected = f"negatives that count alike: the link {link!r} takes a pair or leaves it out"
        yield ConfigError(f"{field}.negatives", name_of(term.negatives), expected)
    if link in ("conditional", "contrastive") and name_of(term.similarity) != "negative_distance":
        expected = f"negative_distance: the link {link!r} weighs pairs by their distance"
        yield ConfigError(f"{field}.similarity", term.similarity, expected)


def _zeros(term: Term, field: str) -> Iterator[ConfigError]:
    """Negatives among the pairs without target, of a graph that leaves none: such a loss is constant."""
    parts = [part for part, weight in zip(parts_of(term.graph), _weights(term.graph)) if weight]
    full = [part for part in parts if not has_zeros(part)]
    for name, choices in AMONG_ZEROS.items():
        choice = getattr(term, name)
        if full and isinstance(choice, Choice) and name_of(choice) in choices:
            expected = f"a graph with zeros: {name} = {name_of(choice)!r} looks at the pairs without target"
            fix = "Use the graph label or identity, or a preset whose denominator has all pairs (supcon, xclr)."
            yield ConfigError(field, describe(full[0]), expected, fix)
    alike = [(name_of(part.source), name_of(part.normalizer), part.transforms) for part in parts]
    if name_of(term.link) in OF_ORDER and {source for source, _, _ in alike} == {"uniform"}:
        expected = f"a graph whose pairs differ: the link {name_of(term.link)!r} asks for their order"
        yield ConfigError(field, describe(term.graph), expected)
    if name_of(term.link) in OF_SHARES and all(one == ("uniform", "none", ()) for one in alike):
        expected = f"a graph with pairs below 1: the link {name_of(term.link)!r} would only attract"
        yield ConfigError(field, describe(term.graph), expected)
    if name_of(term.link) == "symmetric" and not full:
        expected = "a graph without zeros, as a softmax: the link 'symmetric' takes its logarithm"
        yield ConfigError(field, describe(term.graph), expected)


def _weights(graph: Graph | Mixture) -> tuple[float, ...]:
    """The largest weights that the graphs of a mixture get."""
    return tuple(map(highest_weight, graph.weights)) if isinstance(graph, Mixture) else (1.0,)


def _rows(term: Term, field: str) -> Iterator[ConfigError]:
    """Rows that cannot be anchors, or that do not fit beside each other or against each other."""
    if term.anchors.block not in (*EVERY_IMAGE, *MIXED, *TEXT_VIEWS, "meta"):
        expected = f"rows of the images of the batch ({', '.join(EVERY_IMAGE)})"
        yield ConfigError(f"{field}.anchors", term.anchors.block, expected)
    yield from _moved(((term.anchors,), term.key_rows), f"{field}.keys")
    for name, rows in [("anchors", term.anchors), *(("keys", rows) for rows in term.key_rows)]:
        yield from find_unequal_parts(rows, f"{field}.{name}")
    anchors, keys = _modes(term.anchors), {_modes(rows) for rows in term.key_rows}
    if len(keys) > 1:
        yield ConfigError(f"{field}.keys", sorted(keys), "as many modalities beside each other in all keys")
    elif name_of(term.similarity) == "volume":
        if min(anchors, *keys) > 1:
            yield ConfigError(f"{field}.similarity", "volume", "one modality on one side, several on the other at most")
    elif {anchors} | keys != {1}:
        expected = "volume: rows with several modalities beside each other are not unit rows"
        yield ConfigError(f"{field}.similarity", term.similarity, expected)
    sources = {name_of(part.source) for part in parts_of(term.graph)}
    own = sources <= {"identity", "geometry", "same_record"}
    have_own = (*EVERY_IMAGE, *TEXT_VIEWS, *LOCALS) + (("bank",) if sources == {"same_record"} else ())
    anchors_alone = dataclasses.replace(term.anchors, still=False)
    alone = all(dataclasses.replace(rows, still=False) == anchors_alone for rows in term.key_rows)
    alone = alone and _count(term.anchors) == 1 and not term.self_pairs
    if own and name_of(term.link) != "square" and (alone or not any(rows.block in have_own for rows in term.key_rows)):
        expected = "keys among which an anchor has a positive: another row of its image"
        yield ConfigError(f"{field}.keys", "; ".join(rows.block for rows in term.key_rows), expected)
    if name_of(term.negatives) == "own_and_queue" and all(
        rows.block in (*EVERY_IMAGE, *TEXT_VIEWS, *LOCALS) for rows in term.key_rows
    ):
        expected = "keys of a queue or prototypes, for negatives='own_and_queue'"
        yield ConfigError(f"{field}.keys", "; ".join(rows.block for rows in term.key_rows), expected)
    if term.merge_views and term.anchors.times is not None:
        yield ConfigError(f"{field}.merge_views", True, "false: the anchors are products, not views")


def _maps(rows: Rows, maps: frozenset[str], field: str) -> Iterator[ConfigError]:
    """Outputs of a head on the cells of a map, where one vector of every image is compared."""
    if rows.head in maps:
        readers = ", ".join(name for name, slot in FEATURE_TERMS.items() if slot.maps)
        expected = f"a head on features: the outputs of {rows.head!r} are maps, which only {readers} compares"
        yield ConfigError(f"{field}.head", rows.head, expected)
    for name, inner in (("beside", rows.beside), ("times", rows.times)):
        if inner is not None:
            yield from _maps(inner, maps, f"{field}.{name}")


def _moved(ends: tuple[tuple[Rows, ...], ...], field: str) -> Iterator[ConfigError]:
    """A term all of whose rows are without gradient teaches nothing."""
    fixed = [rows for end in ends for rows in end if rows.still or rows.block in WITHOUT_GRADIENT]
    if len(fixed) == sum(map(len, ends)) and any(rows.still for rows in fixed):
        expected = "rows with a gradient on one side: the others have none"
        yield ConfigError(f"{field}.still", True, expected, "Leave still=True out on one side.")


def find_unequal_parts(rows: Rows, field: str) -> Iterator[ConfigError]:
    """Selections with other samples beside them, or that are multiplied with them."""
    for name, inner in (("beside", rows.beside), ("times", rows.times)):
        if inner is None:
            continue
        counts = _count(rows, alone=True), _count(inner)
        if counts[0] is None or counts[0] != counts[1] or (name == "times" and counts[0] != 1):
            rule = "one row per image" if name == "times" else "as many rows per image as the rows it is beside"
            yield ConfigError(f"{field}.{name}", inner.block, rule, "Choose one view: {'block': 'image', 'view': 0}.")
        yield from find_unequal_parts(inner, f"{field}.{name}")


def find_feature_clashes(term: FeatureTerm, objective: Objective, field: str) -> Iterator[ConfigError]:
    """A feature term compares row i of x with row i of y: rows of the same images."""
    slot = slot_of(FEATURE_TERMS, term.name, "feature term")
    sides = ((slot.anchor_reads, (term.x,)), (slot.key_reads if slot.of_keys else frozenset(), (term.y,)))
    yield from _unavailable(f"{field}.name", name_of(term.name), slot, sides, objective)
    if name_of(term.name) == "norm_direction" and not options_of(term.name).get("raw", True):
        expected = "true: rows of length one cannot grow, and the term would be 1 - cos, which is align"
        yield ConfigError(f"{field}.name.raw", False, expected)
    yield from _moved(((term.x,), (term.y,)), f"{field}.y")
    maps = map_heads(objective.heads)
    for name, rows in (("x", term.x), ("y", term.y)):
        if slot.maps:
            if rows.head not in maps or rows.beside is not None or rows.times is not None:
                expected = (
                    f"a head on the cells of a map ({', '.join(sorted(maps)) or 'it has none'}), with no other rows"
                )
                yield ConfigError(f"{field}.{name}.head", rows.head, f"{expected}, for {name_of(term.name)!r}")
        else:
            yield from _maps(rows, maps, f"{field}.{name}")
        if rows.part is not None:
            expected = "None: a feature term compares all rows of a batch"
            yield ConfigError(f"{field}.{name}.part", rows.part, expected, "Leave part out, or compare pairs.")
    yield from find_unequal_parts(term.x, f"{field}.x")
    yield from find_unequal_parts(term.y, f"{field}.y")
    counts, modes = [_count(term.x), _count(term.y)], (_modes(term.x), _modes(term.y))
    if term.each_view:  # one view of the images at a time
        counts = [1 if count == "views" else count for count in counts]
    if slot.raw:
        for name, rows in (("x", term.x), ("y", term.y)):
            if rows.block != "image" or rows.beside is not None or rows.times is not None:
                expected = f"the block 'image': {name_of(term.name)!r} reads head outputs, which only its rows keep"
                yield ConfigError(f"{field}.{name}", rows.block, expected)
    if None in counts or counts[0] != counts[1] or modes[0] != modes[1]:
        expected = f"rows of the same images as x, which is of the block {term.x.block!r}"
        fix = "Choose one view of each: {'block': 'image', 'view': 0}."
        yield ConfigError(f"{field}.y", term.y.block, expected, fix)


def _count(rows: Rows, alone: bool = False) -> int | str | None:
    """Rows per image: a number, a word for "as many as it has views", or None for rows of no image."""
    if rows.block not in (*EVERY_IMAGE, *TEXT_VIEWS, *HARD) or (rows.times is not None and not alone):
        return None
    if rows.view is None and rows.block in (*TEXT_VIEWS, *HARD):
        return "versions" if rows.block in TEXT_VIEWS else "wrong versions"
    if rows.view is not None or rows.block in ("text", "text_teacher"):
        return 1
    if rows.without is not None:
        return f"all but view {rows.without}"
    return "views" if rows.block in OF_VIEWS else "local"


def _modes(rows: Rows) -> int:
    return 1 + (_modes(rows.beside) if rows.beside is not None else 0)


def lowest_tau(term: Term, objective: Objective) -> float:
    """What the temperature of a term cannot go below."""
    if isinstance(term.temperature, int | float):
        return term.temperature
    name, options = name_of(term.temperature), options_of(term.temperature)
    base = objective.lowest_temperature
    if name == "schedule":
        return min(base, options.get("low", 0.1))
    if name == "model_aware":
        return base * (1 - options.get("alpha", 0.5) * (1 + options.get("center", 0.0)))
    if name == "per_anchor" and own_temperatures(objective):
        return constants_of(objective.memory).coldest
    return base


def _temperature(term: Term, objective: Objective, field: str) -> Iterator[ConfigError]:
    rule = None if isinstance(term.temperature, int | float) else name_of(term.temperature)
    if rule == "model_aware":
        if name_of(term.similarity) not in ("dot", "gated") or name_of(term.link) == "square":
            expected = "base: the rule 'model_aware' needs cosines and a target that is not negative"
            yield ConfigError(f"{field}.temperature", rule, expected)
        elif lowest_tau(term, objective) <= 0:
            yield ConfigError(f"{field}.temperature", term.temperature, "alpha (1 + center) < 1: tau must stay above 0")
            return
    if term.merge_views and rule is not None and slot_of(TEMPERATURES, term.temperature, "temperature").anchor_reads:
        expected = "one temperature for all rows: the merged views of an image share it"
        yield ConfigError(f"{field}.temperature", rule, expected)
    if name_of(term.link) == "robust" and name_of(term.similarity) not in ("negative_distance", "volume"):
        q = options_of(term.link).get("q", 0.5)
        if q / lowest_tau(term, objective) > HIGHEST_EXPONENT:
            expected = f"a temperature of at least {q / HIGHEST_EXPONENT:.3g} for q = {q:g}: e^(q / tau) overflows"
            yield ConfigError(f"{field}.temperature", lowest_tau(term, objective), expected)


def _memory(term: Term, number: int, objective: Objective, field: str) -> Iterator[ConfigError]:
    """What is kept per image is computed of the first term, from its shared denominators on all views."""
    readers = [(name, choice) for name, choice, slot in chosen_slots(term) if set(slot.learns) & set(OF_MEMORY)]
    needs = {
        "be the first term": number == 0,
        "have all views of the images as anchors": term.anchors == Rows("image"),
        "have the denominator shared": name_of(term.denominator) == "shared",
        "have no merged views": not term.merge_views,
        "have no mixer": term.mixer is None,
        "have no rule of progress for its temperature": isinstance(term.temperature, int | float)
        or name_of(term.temperature) != "schedule",
        "have no rule of progress for the weights of its graphs": not _in_phases(term.graph),
    }
    for name, choice in readers:
        wrong = [words for words, holds in needs.items() if not holds]
        if wrong:
            yield ConfigError(f"{field}.{name}", choice, f"a term that reads what is kept per image to {wrong[0]}")
    if number == 0 and not readers and objective.memory is not None and term.mixer is not None:
        yield ConfigError(f"{field}.mixer", name_of(term.mixer), f"None with the memory {objective.memory!r}")


def _in_phases(graph: Graph | Mixture) -> bool:
    """Whether the weights of a mixture depend on the progress of the run."""
    return isinstance(graph, Mixture) and (graph.ramp > 0 or not all(isinstance(w, int | float) for w in graph.weights))


def _views(term: Term, field: str) -> Iterator[ConfigError]:
    """Denominators per view need anchors and keys of the same views: there is no other repulsion."""
    if name_of(term.denominator) != "views":
        return
    rows = (term.anchors, *term.key_rows)
    plain = all(one.beside is None and one.times is None and one.block in EVERY_IMAGE for one in rows)
    if len(rows) > 2 or not plain or (_count(rows[0]), rows[0].view) != (_count(rows[1]), rows[1].view):
        expected = "shared: the denominator 'views' compares rows of one view, and these anchors and keys have none"
        yield ConfigError(f"{field}.denominator", "views", expected, "Give anchors and keys the same views.")

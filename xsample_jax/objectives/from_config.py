"""From a config to an objective: a preset with some of its values replaced, or terms written out in full."""

import dataclasses
from collections.abc import Collection, Mapping

from xsample_jax.errors import ConfigError, UserError, fits_float32, lookup, raise_all
from xsample_jax.graphs.sources import SOURCES
from xsample_jax.graphs.targets import (
    NORMALIZERS,
    PROGRESS_RULES,
    TRANSFORMS,
    Graph,
    Mixture,
    parts_of,
)
from xsample_jax.graphs.targets import RULES as TARGET_RULES
from xsample_jax.objectives.bank import Bank, Clusters
from xsample_jax.objectives.blocks import OF_VIEWS, VIEW_0, Rows
from xsample_jax.objectives.combinations import (
    OF_MEMORY,
    find_clashes,
    find_feature_clashes,
    find_unavailable,
)
from xsample_jax.objectives.feature_losses import FEATURE_TERMS
from xsample_jax.objectives.learned_state import constants_of
from xsample_jax.objectives.links import LINKS
from xsample_jax.objectives.objective import Objective
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.objectives.side_information import EVERY_IMAGE, HARD, OF_HEADS, OF_PAIRS, STATES, TEXT_VIEWS
from xsample_jax.objectives.terms import CHOICES, FeatureTerm, Term, chosen_slots, read_terms
from xsample_jax.registry import Slot, name_of, options_of, resolve, wrong_options

# What a block of rows needs that only some objectives have: attribute of Objective.
BLOCK_NEEDS = {
    "image": None,
    "text": "text",
    "teacher": "teacher",
    "text_teacher": "teacher",
    "text_views": "text_views",
    "hard_text": "hard_texts",
    "hard_text_teacher": "hard_texts",
    "teacher_cells": "teacher",
    "teacher_words": "teacher",
    "text_views_teacher": "text_views",
    "queue": "queue",
    "text_queue": "queue",
    "frozen_queue": "queue",
    "neighbors": "queue",
    "prototypes": "prototypes",
    "meta": "prototypes",
    "classes": "classes",
    "class_texts": "class_texts",
    "bank": "bank",
    "centers": "centers",
    "local": "local_views",
    "predicted": "predictor",
    "frozen": "frozen",
    "slim": "slim",
    "mixed": None,
    "mixed_text": "text",
    **dict.fromkeys(OF_PAIRS),
}
SETTABLE = ("teacher", "queue", "prototypes", "frozen", "past")  # of them, what a config can ask for
VIEWS_OF = {
    "text": 1,
    "text_teacher": 1,
    "mixed_text": 1,
    **dict.fromkeys(OF_PAIRS, 1),
    "queue": 0,
    "text_queue": 0,
    "frozen_queue": 0,
    "prototypes": 0,
    "meta": 0,
    "classes": 0,
    "class_texts": 0,
    "bank": 0,
    "centers": 0,
    "teacher_cells": 0,
    "teacher_words": 0,
}  # blocks whose views are known without a batch; 0: has none


def build_objective(config) -> Objective:
    """The objective of the section `config.objective`: its preset, with the config's values where it has any.

    `objective.terms` replaces the preset's terms: a tuple of dicts with the fields of Term (or of FeatureTerm, for one
    with a `name`). Raises Problems (a ConfigError) with everything that is wrong.
    """
    objective = lookup(PRESETS, config["preset"], "objective.preset").objective
    of_teacher = ("teacher", "teacher_end")
    fields = ("temperature", "learn_temperature", "target_temperature", *of_teacher, "queue", "prototypes", "past")
    changes = {name: config[name] for name in fields if config[name] is not None}
    changes |= {"center": config["center"]} | ({"frozen": True} if config["frozen"] is not None else {})
    if config["memory"] is not None:
        changes["memory"] = _memory(objective, config["memory"])
    if config["widths"]:
        weights = config["width_weights"] or (1.0,) * len(config["widths"])
        changes["widths"] = tuple(zip(config["widths"], weights, strict=False))
    rules = {"neighbors": ("count", config["target_neighbors"]), "same_mass": ("mass", config["target_same_mass"])}
    for rule, (option, value) in rules.items():
        if value is not None:
            changes["target_temperature"] = {"name": rule, option: value}
    if config["terms"] is not None:
        made, changes["plan"] = read_terms(config["terms"]), None
        changes["terms"] = tuple(term for term in made if isinstance(term, Term))
        changes["feature_terms"] = tuple(term for term in made if isinstance(term, FeatureTerm))
    objective = dataclasses.replace(objective, **changes)
    if config["graph"] is not None:
        lookup(SOURCES, config["graph"], "objective.graph")
        if not objective.terms:
            raise _no_single_graph(config["graph"])
        objective = dataclasses.replace(
            objective, terms=tuple(_with_source(term, config["graph"]) for term in objective.terms)
        )
    objective = _with_bank(objective, *(config.get(name) or {} for name in ("clusters", "bank")))
    raise_all(list(find_problems(objective)), "the objective")
    return objective


def _memory(objective: Objective, given: Collection[Mapping]) -> Mapping:
    """What an objective keeps per image, with the config's constants: one dict, as {"rho": 8.0}."""
    if objective.memory is None:
        fix = "Set --config.objective.memory=None, or --config.objective.preset=isogclr."
        raise ConfigError("objective.memory", given, "None for an objective that keeps nothing per image", fix)
    constants = {key: value for one in given for key, value in one.items()}
    return {"name": name_of(objective.memory)} | options_of(objective.memory) | constants


COARSE = 0.9  # momentum above which a step of a row is below the rounding of bfloat16


def _with_bank(objective: Objective, clusters: Mapping, bank: Mapping) -> Objective:
    """The objective with clusters of a bank where the config asks for them, and its bank as the config has it."""
    if clusters.get("k") or objective.clusters is not None:
        own = {} if objective.clusters is None else dataclasses.asdict(objective.clusters)
        clusters = own | {name: value for name, value in clusters.items() if value not in (None, ())}
        if "cluster" not in objective.reads:
            expected = "(): no term of this objective reads clusters"
            fix = "Set --config.objective.clusters.k='()', or take a preset that reads clusters, as pcl."
            raise ConfigError("objective.clusters.k", clusters["k"], expected, fix)
        objective = dataclasses.replace(objective, clusters=Clusters(**clusters), bank=objective.bank or Bank())
    else:
        without = {field.name: field.default for field in dataclasses.fields(Clusters) if field.name != "k"}
        for name, value in clusters.items():
            if name in without and value != without[name]:
                fix = "Set --config.objective.clusters.k, the number of clusters of each clustering."
                raise ConfigError(f"objective.clusters.{name}", value, f"{without[name]} without clusters", fix)
    given = {name: value for name, value in bank.items() if value is not None}
    for name, value in given.items() if objective.bank is None else ():
        fix = "Set objective.clusters.k, which makes one, for a preset that reads clusters."
        raise ConfigError(f"objective.bank.{name}", value, "None for an objective without a bank", fix)
    if objective.bank is None:
        return objective
    made = dataclasses.replace(objective.bank, **given)
    if "keys" in given and not any(rows.block == "bank" for rows in objective.rows):
        fix = "Leave it out, or take a preset that compares with rows of the bank, as instance_discrimination."
        raise ConfigError("objective.bank.keys", made.keys, "None: no term of this objective compares with it", fix)
    if made.dtype == "bfloat16" and made.momentum > COARSE:
        expected = f"at most {COARSE} with rows in bfloat16, which a smaller step does not move"
        fix = "Set --config.objective.bank.dtype=float32."
        raise ConfigError("objective.bank.momentum", made.momentum, expected, fix)
    return dataclasses.replace(objective, bank=made)


def presets_that_read(available: Collection[str]) -> tuple[str, ...]:
    """Names of the presets that need nothing of a batch but the entries `available` and the id."""
    return tuple(name for name, preset in PRESETS.items() if preset.objective.requires <= {"id", *available})


def find_problems(objective: Objective):
    """Yields one ConfigError for everything in an objective that is unknown or does not go together."""
    unknown_rows = [problem for rows in objective.rows for problem in _unknown_rows(rows, objective)]
    for number, term in enumerate(objective.terms):
        field = f"objective.terms[{number}]"
        wrong = list(_wrong_choices(term, field))
        yield from wrong
        if isinstance(term.graph, Mixture):
            yield from _ramp(term.graph.ramp, f"{field}.graph.ramp")
        yield from _views_apart(term, (term.anchors, *term.key_rows), f"{field}.each_view")
        if not wrong and not unknown_rows:
            yield from find_unavailable(term, objective, field)
            yield from find_clashes(term, number, objective, field)
        if any(part.raw for rows in (term.anchors, *term.key_rows) for part in _nested(rows)):
            yield ConfigError("rows.raw", True, "false: only feature terms compare rows of any length")
    for number, term in enumerate(objective.feature_terms):
        field = f"objective.feature_terms[{number}]"
        wrong = list(_unknown(FEATURE_TERMS, term.name, f"{field}.name"))
        yield from wrong
        yield from _weight(term.weight, f"{field}.weight")
        yield from _views_apart(term, (term.x, term.y), f"{field}.each_view")
        if not wrong and not unknown_rows:
            yield from find_feature_clashes(term, objective, field)
    yield from unknown_rows
    yield from _unused(objective)
    yield from _memory_constants(objective)
    yield from _widths(objective)
    yield from _not_positive(objective.temperature, "objective.temperature")
    yield from _target_temperature(objective.target_temperature, "objective.target_temperature")
    if not objective.terms and not objective.feature_terms:
        yield ConfigError("objective.terms", (), "at least one term")
    if objective.center and not any(
        name_of(part.source) in ("caption", "class_text") for term in objective.terms for part in parts_of(term.graph)
    ):
        yield ConfigError(
            "objective.center",
            True,
            "false: no target graph of this objective is made of text embeddings",
            "Set --config.objective.center=false, or --config.objective.preset=xclr.",
        )


def _wrong_choices(term: Term, field: str):
    """Names and options of a term that do not exist, one by one."""
    if name_of(term.link) != "softmax" or options_of(term.link):
        yield from _unknown(LINKS | {"softmax": Slot(lambda: None)}, term.link, f"{field}.link")
    for name, registry in CHOICES.items():
        choice = getattr(term, name)
        if choice is not None and not isinstance(choice, int | float):
            yield from _unknown(registry, choice, f"{field}.{name}")
        elif choice is not None and not fits_float32(choice) and name != "temperature":
            yield ConfigError(f"{field}.{name}", choice, "a finite number that float32 holds")
    yield from _not_positive(term.temperature, f"{field}.temperature")
    if "by" in options_of(term.denominator):
        yield from _unknown(SOURCES, term.denominator["by"], f"{field}.denominator.by")
    yield from _weight(term.weight, f"{field}.weight")
    if term.reduce not in ("rows", "pairs"):
        yield ConfigError(f"{field}.reduce", term.reduce, "rows or pairs")
    if isinstance(term.graph, Mixture) and len(term.graph.weights) != len(term.graph.graphs):
        expected = f"one weight for each of the {len(term.graph.graphs)} graphs"
        yield ConfigError(f"{field}.graph.weights", term.graph.weights, expected)
    for weight in term.graph.weights if isinstance(term.graph, Mixture) else ():
        yield from _weight(weight, f"{field}.graph.weights")
    for part in parts_of(term.graph):
        yield from _target_temperature(part.target_temperature, f"{field}.graph.target_temperature")
        yield from _unknown(SOURCES, part.source, f"{field}.graph.source")
        yield from _unknown(NORMALIZERS, part.normalizer, f"{field}.graph.normalizer")
        for transform in part.transforms:
            yield from _unknown(TRANSFORMS, transform, f"{field}.graph.transforms")


def needed_views(objective: Objective) -> int:
    """Views of an image that the objective compares at least."""
    of_views = [rows for found in objective.rows for rows in _nested(found) if rows.block in OF_VIEWS]
    views = [1 if rows.view is None else rows.view + 1 for rows in of_views]
    views += [max(2, rows.without + 1) for rows in of_views if rows.without is not None]
    together = [term for term in objective.terms if not term.each_view]
    within = any(_all_views(term.anchors) and any(map(_all_views, term.key_rows)) for term in together)
    within |= any(term.anchors.block == "mixed_images" and VIEW_0 in term.key_rows for term in objective.terms)
    return max([1 + within, *views, *(slot.views for term in objective.terms for _, _, slot in chosen_slots(term))])


def _all_views(rows: Rows) -> bool:
    return dataclasses.replace(rows, still=False) == Rows("image")


def _nested(rows: Rows) -> list[Rows]:
    """The selection and those inside it."""
    return [rows] + [part for inner in (rows.beside, rows.times) if inner is not None for part in _nested(inner)]


def _not_positive(value, field: str):
    if isinstance(value, int | float) and not (value > 0 and fits_float32(value)):
        yield ConfigError(field, value, "a temperature > 0 that float32 holds", "Usual: 0.05 to 1.")


def _target_temperature(value, field: str):
    if value is not None and not isinstance(value, int | float):
        yield from _unknown(TARGET_RULES, value, field)
    yield from _not_positive(value, field)


def _missing(needs: Mapping, name: str, objective: Objective, field: str):
    """One problem where `name` reads something that the objective does not have."""
    attribute = needs.get(name)
    if attribute is None:
        return
    if STATES[attribute](objective):
        return
    having = ", ".join(sorted(key for key, preset in PRESETS.items() if STATES[attribute](preset.objective)))
    expected = f"an objective with a {attribute.replace('_', ' ')}, which {name!r} is made of"
    own = f"Set --config.objective.{attribute}, or take" if attribute in SETTABLE else "Take"
    yield ConfigError(field, name, expected, f"{own} a preset that has one: {having}.")


def _ramp(value, field: str):
    if not 0 <= value <= 1:
        yield ConfigError(field, value, "a share of the run, from 0 to 1")


def _weight(value, field: str):
    """Problems of a weight: a number that is not finite, or a rule of progress that makes no sense."""
    if isinstance(value, int | float):
        if not fits_float32(value):
            yield ConfigError(field, value, "a finite number that float32 holds")
        return
    if name_of(value) not in PROGRESS_RULES:
        yield ConfigError(field, value, f"a number, or a rule of progress: {', '.join(PROGRESS_RULES)}")
        return
    wrong = list(_unknown(PROGRESS_RULES, value, field))
    yield from wrong
    options = options_of(value)
    if not wrong and options.get("start", 0.0) > options["share"]:
        expected = f"at most share = {options['share']:g}, where the ramp ends"
        yield ConfigError(f"{field}.start", options["start"], expected)


def _views_apart(term: Term | FeatureTerm, ends: tuple[Rows, ...], field: str):
    """One problem where a term of each view on its own compares views of one image: a view has no other view."""
    whole = [rows.block for rows in ends if rows.block in OF_VIEWS and rows.view is rows.without is None]
    twins = len(set(whole)) < len(whole) and not getattr(term, "self_targets", False)
    if term.each_view and (not whole or twins):
        expected = "false, or one end of the term that has all views, as image against text"
        yield ConfigError(field, True, expected)


def _memory_constants(objective: Objective):
    if objective.memory is None:
        return
    try:
        constants_of(objective.memory)
    except ConfigError as error:
        yield error


def _widths(objective: Objective):
    """Prefixes of the embedding, the longest first; averages kept per image are those of one width."""
    widths = [width for width, _ in objective.widths]
    if widths != sorted(set(widths), reverse=True):
        yield ConfigError("objective.widths", tuple(widths), "widths from the largest to the smallest, each once")
    if widths and not sum(weight for _, weight in objective.widths) > 0:
        yield ConfigError("objective.width_weights", [weight for _, weight in objective.widths], "a weight above 0")
    if widths and any("class_center" in slot.anchor_reads for slot in _feature_slots(objective)):
        expected = "(): norm_direction compares whole head outputs with the teacher's features"
        yield ConfigError("objective.widths", tuple(widths), expected)
    if widths and any({"token_loss", "latent"} & slot.anchor_reads for slot in _feature_slots(objective)):
        expected = "(): what a decoder of this objective reads has one width, and its loss would count for every prefix"
        yield ConfigError("objective.widths", tuple(widths), expected, "Set --config.objective.widths='()'.")
    if widths and objective.past:
        expected = "(): what this objective keeps of an image's past is of the whole embedding"
        yield ConfigError("objective.widths", tuple(widths), expected, "Set --config.objective.widths='()'.")
    if widths and objective.memory is not None:
        expected = "(): what this objective keeps per image is of the whole embedding"
        fix = "Set --config.objective.widths='()', or take another preset than sogclr and isogclr."
        yield ConfigError("objective.widths", tuple(widths), expected, fix)


def _feature_slots(objective: Objective) -> list[Slot]:
    """Those of the feature terms whose names there are; the others are reported by themselves."""
    names = [name_of(term.name) for term in objective.feature_terms]
    return [FEATURE_TERMS[name] for name in names if name in FEATURE_TERMS]


def _unused(objective: Objective):
    """What an objective keeps up at a cost and no term reads."""
    blocks = {part.block for rows in objective.rows for part in _nested(rows)}
    sources = {name_of(part.source) for term in objective.terms for part in parts_of(term.graph)}
    queue = bool(blocks & {"queue", "text_queue", "frozen_queue", "neighbors"})
    if objective.memory is not None and not objective.learns & set(OF_MEMORY):
        fix = "Take another preset: sogclr and isogclr keep it."
        yield ConfigError("objective.memory", objective.memory, "None: no term of this objective reads it", fix)
    if objective.gate and "gate" not in objective.learns:
        yield ConfigError("objective.gate", True, "false: no term of this objective reads it", "Take another preset.")
    of_teacher = {name for name in BLOCK_NEEDS if "teacher" in name}
    teacher = queue or bool(of_teacher & (blocks | sources))
    of_features = any("frozen" in slot.learns for slot in _feature_slots(objective))
    tables = {slot.table for slot in _feature_slots(objective)}
    read = {"teacher": teacher, "queue": queue, "prototypes": bool({"prototypes", "meta"} & (blocks | tables))}
    read["frozen"] = bool((blocks | sources) & {"frozen", "frozen_queue", "frozen_pair"}) or of_features
    heads = {part.head for rows in objective.rows for part in _nested(rows)} | (blocks & {"class_texts"})
    chosen = {name_of(term.similarity) for term in objective.terms} | {name_of(t.name) for t in objective.feature_terms}
    heads |= {"prompts"} if chosen & {"prompted", "prompt_consistency"} else set()
    for name in objective.heads:
        later = {head.of for head in objective.heads.values()}
        if name not in heads | later | {objective.log_variance}:
            yield ConfigError("objective.heads", name, "heads that a term reads", "Take another preset.")
    read |= {"slim": "slim" in blocks, "past": "past" in sources, "hard_texts": "hard_text" in blocks}
    read["teacher_end"] = objective.teacher is not None and not objective.by_task
    read["text_views"] = bool(blocks & set(TEXT_VIEWS))
    read["centers"] = "centers" in blocks
    read["pair_network"] = objective.pair_network is None or "pair_network" in objective.learns
    for name, used in read.items():
        value = getattr(objective, name)
        if value and not used:
            having = ", ".join(sorted(key for key, preset in PRESETS.items() if getattr(preset.objective, name)))
            fix = f"Set --config.objective.{name}=None, or take a preset that reads one: {having}."
            yield ConfigError(f"objective.{name}", value, f"None: no term of this objective reads its {name}", fix)


def _unknown_rows(rows: Rows, objective: Objective):
    for part in _nested(rows):
        found = list(_unknown(dict.fromkeys(BLOCK_NEEDS, len), part.block, "rows.block"))
        found = found or list(_missing(BLOCK_NEEDS, part.block, objective, "rows.block"))
        if part.block == "frozen_queue":
            found = found or list(_missing({part.block: "frozen"}, part.block, objective, "rows.block"))
        if part.block.startswith("text_"):
            found = found or list(_missing({part.block: "text"}, part.block, objective, "rows.block"))
        if not found and part.part is not None and (part.part not in (0, 1) or part.block not in EVERY_IMAGE):
            expected = f"0 or 1, for a block that has parts: {', '.join(EVERY_IMAGE)}"
            yield ConfigError("rows.part", part.part, expected)
        elif not found and part.part is not None and (part is not rows or rows.times is not None):
            expected = "None for rows beside others or in products, which are of all parts"
            yield ConfigError("rows.part", part.part, expected, "Give part to the selection outside, without times.")
        yield from found
        if part.block == "teacher_words" and objective.text != "transformer":
            expected = "an objective with a text transformer: a frozen caption embedding has no words"
            yield ConfigError("rows.block", part.block, expected)
        if part.block in ("text_views_teacher", "hard_text_teacher"):
            found = found or list(_missing({part.block: "teacher"}, part.block, objective, "rows.block"))
        texts = dict.fromkeys(TEXT_VIEWS, objective.text_views) | dict.fromkeys(HARD, objective.hard_texts)
        views = {**VIEWS_OF, **texts, "local": objective.local_views}.get(part.block)
        for name in () if found else ("view", "without"):
            view = getattr(part, name)
            if view is not None and (view < 0 or (views is not None and view >= views)):
                limit = "None" if views == 0 else "a number from 0" + (f" to {views - 1}" if views else "")
                yield ConfigError(f"rows.{name}", view, f"{limit} for the block {part.block!r}")
        if part.head is not None and (part.head not in objective.heads or part.block not in OF_HEADS):
            expected = f"a named head of the objective ({', '.join(objective.heads) or 'it has none'}), on rows of "
            yield ConfigError("rows.head", part.head, expected + ", ".join(OF_HEADS))
        if part.raw and part.head is None and part.block not in ("image", "slim"):
            expected = "a named head, or the blocks 'image' and 'slim', which keep their head outputs"
            yield ConfigError("rows.raw", True, expected)
        if None not in (part.view, part.without):
            yield ConfigError("rows.without", part.without, "None with a view of its own")


def _with_source(term: Term, source: str) -> Term:
    if not isinstance(term.graph, Graph) or term.anchors.block != "image" or term.keys != term.anchors:
        raise _no_single_graph(source)
    return dataclasses.replace(term, graph=dataclasses.replace(term.graph, source=source))


def _no_single_graph(source: str) -> ConfigError:
    return ConfigError(
        "objective.graph",
        source,
        "None for a preset that does not compare images with images along one graph",
        "Set --config.objective.graph=None, or --config.objective.preset=xclr.",
    )


def _unknown(registry: Mapping, choice, field: str):
    """Problems of a name that is not registered, and of options that do not exist or have a wrong value."""
    try:
        resolve(registry, choice, field)
    except UserError as error:
        yield error
        return
    if options_of(choice):
        yield from wrong_options(registry, choice, field)

"""Declarations of slots are true: what a function reads of anchors and keys is what its slot says (faults A1)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xsample_jax.config.schema_objective import SOURCE_NAMES
from xsample_jax.graphs.sources import SOURCES
from xsample_jax.graphs.targets import NORMALIZERS, RULES, TRANSFORMS
from xsample_jax.objectives.cross_entropy import AGGREGATES, DENOMINATORS, Pairing
from xsample_jax.objectives.feature_losses import FEATURE_TERMS, near_cells
from xsample_jax.objectives.from_config import BLOCK_NEEDS
from xsample_jax.objectives.links import LINKS
from xsample_jax.objectives.logits import SIMILARITIES, TEMPERATURES, TemperatureInputs
from xsample_jax.objectives.mixers import MIXERS, MixerInputs
from xsample_jax.objectives.negatives import NEGATIVES
from xsample_jax.objectives.row_weights import WEIGHTS, WeightInputs
from xsample_jax.objectives.side_information import PROVIDERS, STATES, provider_of
from xsample_jax.registry import Slot, slot_of

RNG = np.random.default_rng(11)
ANCHORS, KEYS, WIDTH = 4, 6, 5
OPTIONS = {"hardest": {"k": 2}, "rank": {"by": "caption"}, "top_k": {"k": 2}, "power": {"exponent": 2.0}}
OPTIONS |= {"threshold": {"at": 0.1}, "neighbors": {"count": 2.0}, "same_mass": {"mass": 0.5}}
OPTIONS |= {"whitened_contrast": {"width": WIDTH}}


class Recorded(dict):
    """Side information that remembers which of it was read."""

    def __init__(self, entries):
        super().__init__(entries)
        self.read = set()

    def __getitem__(self, name):
        self.read.add(name)
        return super().__getitem__(name)

    def __contains__(self, name):
        self.read.add(name)
        return super().__contains__(name)

    def get(self, name, default=None):
        self.read.add(name)
        return super().get(name, default)


def side(rows):
    """Everything that anything reads."""
    whole = ("id", "index", "row", "view", "label", "second_label", "owner", "group", "first", "partner", "is_target")
    whole += ("center", "clustering", "first_label", "partner_label", "caption_number", "token_count", "column")
    integers = {name: RNG.integers(0, 3, rows) for name in whole}
    wide = (
        "caption_embedding",
        "class_embedding",
        "embedding",
        "teacher",
        "same_view_teacher",
        "frozen",
        "frozen_features",
        "frozen_pair",
        "class_center",
        "text",
        "image",
        "other_view",
        "gate",
        "target",
        "pair_first",
        "pair_second",
        "prompt",
        "past",
    )
    floats = {name: RNG.normal(size=(rows, WIDTH)) for name in (*wide, "view_0", "view_1", "view_2")}
    several = {"labels": RNG.integers(0, 2, (rows, 4)), "path": RNG.integers(0, 2, (rows, 3))}
    several |= {"id_words": np.stack([integers["id"], np.zeros(rows, int)], axis=1)}
    several |= {"crop": RNG.uniform(0.1, 0.5, (rows, 4))}
    several |= {"cluster": RNG.integers(0, 2, (rows, 3)), "box": RNG.uniform(0.1, 0.5, (rows, 4))}
    one = {
        name: RNG.uniform(0.1, 1, rows)
        for name in (
            "log_average",
            "anchor_temperature",
            "class_temperature",
            "beta",
            "weight",
            "head_temperature",
            "sharpness",
            "token_loss",
            "latent",
            "reconstruction",
        )
    }
    one["pair_out"], one["pair_channel"] = (RNG.normal(size=(rows, width)) for width in (WIDTH + 1, 3 * WIDTH + 1))
    part = {"part": np.arange(rows) % 2}
    return Recorded({name: jnp.asarray(x) for name, x in (integers | floats | several | one | part).items()})


X, Y = (jnp.asarray(RNG.normal(size=(rows, WIDTH)), jnp.float32) for rows in (ANCHORS, KEYS))
LOGITS, VALID = X @ Y.T, jnp.ones((ANCHORS, KEYS), bool)
TARGET = jnp.asarray(RNG.integers(0, 2, (ANCHORS, KEYS)), jnp.float32)
WEIGHT = jnp.ones((ANCHORS, KEYS))
PAIR_VIEW = jnp.zeros((ANCHORS, KEYS), int)


def keys_of(function):
    """The key of a feature term that draws."""
    return (
        [jax.random.key(0)] if any(slot.draws and slot.function is function for slot in FEATURE_TERMS.values()) else []
    )


def side_of(function, u, v):
    """The side information of a feature term that reads some."""
    slot = next(slot for slot in FEATURE_TERMS.values() if slot.function is function)
    table = [{"z": Y, "raw": Y}] if slot.table else []
    return [side for side, names in ((u, slot.anchor_reads), (v, slot.of_keys)) if names] + table


def map_of(function):
    """Rows of the two ends of a feature term; maps for the one that compares cells."""
    return (X.reshape(ANCHORS, 1, 1, WIDTH),) * 2 if function is near_cells else (X, Y[:ANCHORS])


KEY = jax.random.key(0)
# How a function of every registry is called: f(slot, u, v, options).
REGISTRIES = {
    "source": (SOURCES, lambda f, u, v, o: f(u, v, **o)),
    "similarity": (SIMILARITIES, lambda f, u, v, o: f(X, Y, u, v, **o)),
    "negatives": (NEGATIVES, lambda f, u, v, o: f(LOGITS, TARGET, VALID, u, v, **o)),
    "weight": (WEIGHTS, lambda f, u, v, o: f(WeightInputs(LOGITS, TARGET, WEIGHT, LOGITS[:, :1], u, 0.5, 0.1), **o)),
    "temperature": (TEMPERATURES, lambda f, u, v, o: f(TemperatureInputs(0.5, u, LOGITS, TARGET, 0.1), **o)),
    "denominator": (DENOMINATORS, lambda f, u, v, o: f(LOGITS, WEIGHT, Pairing(u, v, PAIR_VIEW, 1), **o)),
    "link": (LINKS, lambda f, u, v, o: f(LOGITS, TARGET, VALID, *((u, v) if o else ()), **o)),
    "aggregate": (AGGREGATES, lambda f, u, v, o: f(LOGITS, TARGET, LOGITS[:, :1], **o)),
    "mixer": (MIXERS, lambda f, u, v, o: f(MixerInputs(X, Y, TARGET, TARGET == 0, u, v, KEY), **o)),
    "feature term": (FEATURE_TERMS, lambda f, u, v, o: f(*map_of(f), *side_of(f, u, v), *keys_of(f), **o)),
    "normalizer": (NORMALIZERS, lambda f, u, v, o: f(LOGITS, VALID, 0.5, **o)),
    "transform": (TRANSFORMS, lambda f, u, v, o: f(LOGITS, VALID, **o)),
    "target temperature": (RULES, lambda f, u, v, o: f(LOGITS, VALID, **o)),
}
CASES = [(kind, name, OPTIONS.get(name, {})) for kind, (registry, _) in REGISTRIES.items() for name in registry]
CASES += [("link", "conditional", {"through": "batch"})]
CASES += [("source", "swapped", {"of": 2}), ("source", "teacher", {"own": False})]
CASES += [("source", "teacher", {"same_view": True}), ("source", "teacher", {"queue_only": True})]
CASES += [("source", "self_similarity", {"of_image": True})]
CASES += [("source", "hierarchy", {"measure": "path"})]
CASES += [("denominator", "rank", {"by": name}) for name in SOURCES if name != "caption"]


@pytest.mark.parametrize(("kind", "name", "options"), CASES, ids=[f"{k}-{n}-{o or ''}" for k, n, o in CASES])
def test_a_slot_reads_exactly_what_it_declares(kind, name, options):
    """faults A1: a slot that reads something it does not declare would end in a KeyError while tracing."""
    registry, call = REGISTRIES[kind]
    assert isinstance(registry[name], Slot)
    slot = slot_of(registry, {"name": name, **options}, kind)
    u, v = side(ANCHORS), side(ANCHORS if kind == "feature term" else KEYS)  # of features, rows of the same images
    call(slot.function, u, v, options)
    # A shape that is asked of the id is no information.
    assert u.read == slot.anchor_reads
    assert v.read == slot.key_reads


@pytest.mark.parametrize(("kind", "name", "options"), CASES, ids=[f"{k}-{n}-{o or ''}" for k, n, o in CASES])
def test_a_slot_needs_the_state_that_its_side_information_is_made_of(kind, name, options):
    """faults A1: what is read of the state of an objective is declared as state, too."""
    slot = slot_of(REGISTRIES[kind][0], {"name": name, **options}, kind)
    states = {p.state for read in slot.anchor_reads | slot.key_reads if (p := provider_of(read)) and p.state}
    states |= {BLOCK_NEEDS[slot.table]} if slot.table else set()
    assert set(slot.learns) <= set(STATES)
    if "log_average" in slot.anchor_reads:  # of SogCLR or of iSogCLR, which keep different averages
        assert len(slot.learns) == 1
    else:
        assert set(slot.learns) == states


def test_every_provider_has_a_state_that_exists():
    assert {provider.state for provider in PROVIDERS.values()} - {None} <= set(STATES)


def test_the_config_offers_the_graphs_that_something_provides():
    """faults A1: objective.graph offered choices that every dataset lacks."""
    assert set(SOURCES) - set(SOURCE_NAMES) == {"geometry"}

"""Names that a config may choose are the names that exist."""

import pytest

from xsample_jax.config import flat_keys
from xsample_jax.data.sources import SOURCES as DATA_SOURCES
from xsample_jax.graphs.sources import SOURCES as GRAPH_SOURCES
from xsample_jax.models.towers import ENCODERS, KINDS
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.optim import OPTIMIZERS
from xsample_jax.weights.families import FAMILIES


@pytest.mark.parametrize(
    ("key", "registry"),
    [
        ("data.source", DATA_SOURCES),
        ("model.encoder", ENCODERS),
        ("objective.preset", PRESETS),
        ("objective.graph", set(GRAPH_SOURCES) - {"geometry"}),  # nothing provides what it reads
        ("optimizer.name", OPTIMIZERS),
    ],
)
def test_choices_are_the_registry(key, registry):
    assert set(flat_keys()[key].choices) == set(registry)


def test_every_encoder_is_of_one_kind_and_every_family_fits_one():
    assert sorted(name for names in KINDS.values() for name in names) == sorted(ENCODERS)
    assert {family.kind for family in FAMILIES.values()} <= set(KINDS)
    assert all(bool(family.layouts) == (family.kind == "vit") for family in FAMILIES.values())

"""Names that a config may choose are the names that exist."""

import pytest

from xsample_jax.config import flat_keys
from xsample_jax.data.sources import SOURCES as DATA_SOURCES
from xsample_jax.graphs.sources import SOURCES as GRAPH_SOURCES
from xsample_jax.models.towers import ENCODERS
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.optim import OPTIMIZERS


@pytest.mark.parametrize(
    ("key", "registry"),
    [
        ("data.source", DATA_SOURCES),
        ("model.encoder", ENCODERS),
        ("objective.preset", PRESETS),
        ("objective.graph", set(GRAPH_SOURCES) - {"labels", "kernel", "geometry"}),  # nothing provides what they read
        ("optimizer.name", OPTIMIZERS),
    ],
)
def test_choices_are_the_registry(key, registry):
    assert set(flat_keys()[key].choices) == set(registry)

"""Small configs and networks for the tests of models/."""

from types import SimpleNamespace

import pytest

from xsample_jax.config.key import Key
from xsample_jax.config.schema import SCHEMA
from xsample_jax.models import resnet


def _defaults(schema):
    return SimpleNamespace(
        **{name: entry.default if isinstance(entry, Key) else _defaults(entry) for name, entry in schema.items()}
    )


@pytest.fixture
def config():
    """The schema's defaults, with a small encoder."""
    config = _defaults(SCHEMA)
    config.model.encoder, config.model.width = "resnet18", 4
    config.model.head.hidden, config.model.head.dim = (16,), 8
    return config


@pytest.fixture
def shallow(monkeypatch):
    """Depths 6, 18 (basic) and 8 (bottleneck) get two stages of one block: all kinds of layer, quick to compile."""
    monkeypatch.setitem(resnet.LAYOUTS, 6, (resnet.BasicBlock, (1, 1)))
    monkeypatch.setitem(resnet.LAYOUTS, 18, (resnet.BasicBlock, (1, 1)))
    monkeypatch.setitem(resnet.LAYOUTS, 8, (resnet.Bottleneck, (1, 1)))

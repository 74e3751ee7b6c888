import pytest

from tests.objectives.synthetic import LinearEncoder
from xsample_jax.models import towers


@pytest.fixture
def linear_encoder(monkeypatch):
    """Every train step of a test has the smallest encoder, so that tracing and compiling it take no time."""
    monkeypatch.setitem(towers.ENCODERS, "resnet18", lambda config, rngs: LinearEncoder(rngs))

"""A finished run that tests of this folder copy and damage."""

import pytest

from tests.objectives.synthetic import LinearEncoder
from tests.tiny import tiny_config
from xsample_jax import loop
from xsample_jax.models import towers


@pytest.fixture(scope="session")
def linear_run(tmp_path_factory):
    """f(**changes) trains the linear encoder by `tiny_config(**changes)`, with an empty report; returns its folder."""

    def trained(**changes):
        folder = tmp_path_factory.mktemp("linear") / "run"
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(towers.ENCODERS, "resnet18", lambda config, rngs: LinearEncoder(rngs))
            patch.setattr(loop, "write_report", lambda runs, path: path.write_text(""))
            loop.train(tiny_config(**changes), folder)
        return folder

    return trained

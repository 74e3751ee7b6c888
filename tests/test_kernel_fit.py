"""loss.kernel=pallas is refused by what the devices are, before anything of the run is opened."""

from types import SimpleNamespace

import numpy as np
import pytest

from tests.tiny import tiny_config
from xsample_jax.config.rules_objective import check_kernels
from xsample_jax.errors import ConfigError, Problems
from xsample_jax.objectives.from_config import build_objective
from xsample_jax.setup import build_run


def mesh(platform, devices):
    device = SimpleNamespace(platform=platform)
    return SimpleNamespace(devices=np.full((devices, 1, 1), device, object), size=devices)


def check(platform, devices, batch_size, **changes):
    changes = {"loss__impl": "streaming", "loss__kernel": "pallas"} | changes
    config = tiny_config(batch_size=batch_size, **changes)
    check_kernels(config, build_objective(config.objective), mesh(platform, devices))


def test_kernels_want_tpus_and_whole_tiles():
    check("tpu", 4, 1024)
    check("cpu", 4, 36, loss__kernel="auto")
    with pytest.raises(ConfigError, match=r"loss\.kernel = 'pallas': expected auto or xla on gpu.*loss\.kernel=auto"):
        check("gpu", 4, 1024)
    with pytest.raises(ConfigError, match=r"9 images on each of 4 devices.*multiple of 512"):
        check("tpu", 4, 36)
    with pytest.raises(Problems, match=r"on cpu(.|\n)*9 images"):
        check("cpu", 4, 36)


def test_a_run_is_refused_before_its_data_is_opened():
    config = tiny_config(loss__impl="streaming", loss__kernel="pallas", data__source="records", data__path="gone",
                         eval__suite="none")  # fmt: skip
    with pytest.raises(ConfigError, match="kernels are for TPUs"):
        build_run(config)

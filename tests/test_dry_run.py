"""--dry_run: sizes and an image here; a TPU slice compiled by the TPU compiler without a TPU."""

import pathlib
import types

import jax
import numpy as np
import pytest
from PIL import Image

from tests.tiny import tiny_config
from xsample_jax import main
from xsample_jax.config import load_config
from xsample_jax.errors import ConfigError
from xsample_jax.models import resnet
from xsample_jax.reports.dry_run import IMAGE, compiled_report, dry_run, placeholder_setup
from xsample_jax.topology import topology_devices

ROOT = pathlib.Path(__file__).parent.parent

pytestmark = pytest.mark.usefixtures("shallow_resnet18")


def test_describes_the_run_and_draws_its_first_batch(tmp_path, capsys):
    report = dry_run(tiny_config(), workdir=str(tmp_path))
    text = capsys.readouterr().out
    assert report.flops > 0
    assert report.temporaries > 0
    assert "rows of the loss: 32" in text
    assert "batch caption_embedding: float16[16, 768]" in text
    image = Image.open(tmp_path / IMAGE)
    assert image.width > 250
    assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 100


@pytest.mark.slow
def test_compiles_for_a_tpu_slice(capsys):
    pytest.importorskip("libtpu")
    report = dry_run(tiny_config(augment__auto_augment=False), topology="v5e:2x4")
    text = capsys.readouterr().out
    assert "TPU slice v5e:2x4: 8 devices" in text
    assert 0 < report.peak < 16 * 2**30
    assert report.seconds > 0
    reduced = sum(item.bytes for item in report.collectives if item.op in ("all-reduce", "reduce-scatter"))
    parameters = int(text.split("parameters: ")[1].split(" ")[0].replace(",", ""))
    assert reduced >= 4 * parameters  # the gradient, in float32


@pytest.mark.slow
def test_the_paper_recipe_compiles_for_its_slice(monkeypatch):
    """The step of a ResNet-50 with one block a stage at 224 px by the TPU compiler, told not to spend time on speed.

    The first block of a stage takes the most memory and has the most parameters: it widens, and maps its input too.
    """
    pytest.importorskip("libtpu")
    block, blocks = resnet.LAYOUTS[50]
    monkeypatch.setitem(resnet.LAYOUTS, 50, (block, (1,) * len(blocks)))
    config = load_config(str(ROOT / "configs" / "cc12m.py"), ["--config.model.conv_impl=conv"])
    devices = topology_devices(config.mesh.topology)
    parts = placeholder_setup(config, devices)
    lowered = parts.train_step.lower(parts.abstract_state, parts.abstract_batch)
    report = compiled_report(lowered.compile(compiler_options={"exec_time_optimization_effort": -1.0}))
    assert max(blocks) * report.peak < 16 * 2**30  # all blocks on a v5e chip
    gradient = 4 * sum(leaf.size for leaf in jax.tree.leaves(parts.abstract_state.params))
    reduced = sum(item.bytes for item in report.collectives if item.op in ("all-reduce", "reduce-scatter"))
    # The gradient once, in the bfloat16 of the activations, and the statistics of the batch norms in float32.
    assert 0.45 * gradient < reduced < 0.8 * gradient


def test_a_slice_that_does_not_exist_is_explained():
    with pytest.raises(ConfigError, match="v5e:16x16"):
        dry_run(tiny_config(), topology="v5e-16")


def test_a_batch_that_does_not_divide_over_the_slice_is_refused():
    pytest.importorskip("libtpu")
    with pytest.raises(ConfigError, match="multiple of the 32 devices"):
        dry_run(tiny_config(), topology="v5e:4x8")


def test_configs_of_the_paper_name_a_slice():
    for name in ("imagenet", "cc3m", "cc12m"):
        config = load_config(str(ROOT / "configs" / f"{name}.py"))
        chips = 1
        for side in config.mesh.topology.split(":")[1].split("x"):
            chips *= int(side)
        assert config.batch_size % chips == 0


def test_a_topology_needs_no_folder_of_images(monkeypatch):
    described = []
    values = {"_CONFIG": "quickstart", "_WORKDIR": None, "_DRY_RUN": True, "_TOPOLOGY": "v5e:2x2"}
    for name, value in values.items():
        monkeypatch.setattr(main, name, types.SimpleNamespace(value=value))
    monkeypatch.setattr("xsample_jax.reports.dry_run.dry_run", lambda config, **options: described.append(config))
    folder = ["--config.data.source=folder", "--config.data.path=/nowhere", "--config.objective.preset=simclr"]
    main.main(["main"], [*folder, "--config.eval.suite=none"])
    assert described[0].data.source == "folder"

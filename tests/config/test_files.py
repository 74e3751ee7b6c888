"""Every file of configs/: it loads, it is right, it says what it is, and its resolved form is the committed one."""

import ast
import json
import re

import pytest

from tests.config.goldens import FILE, ROOT, SPECS, VARIANTS, changed_values, read_spec
from xsample_jax.config import diff_configs, load_config, read_config_file
from xsample_jax.errors import ConfigError
from xsample_jax.prepare.shapes import CAPTIONS

GOLDENS = json.loads(FILE.read_text())


@pytest.mark.parametrize("spec", SPECS)
def test_resolves_to_the_committed_config(spec):
    assert changed_values(spec) == GOLDENS[spec], "if this change is meant, run `make goldens` and commit the file"


def test_no_config_and_no_golden_is_forgotten():
    files = {str(path.relative_to(ROOT / "configs").with_suffix("")) for path in (ROOT / "configs").glob("**/*.py")}
    # Tests of their own: test_objective_configs.py, tests/sweeps/test_ablations.py, test_studies.py.
    elsewhere = ("objective", "ablations/", "studies/")
    assert {name for name in files if not name.startswith(elsewhere)} == set(VARIANTS)
    assert set(GOLDENS) == set(SPECS)


@pytest.mark.parametrize("spec", SPECS)
def test_smoke_is_small_and_needs_no_files(spec):
    config, full = read_spec(f"{spec},smoke" if ":" in spec else f"{spec}:smoke"), read_spec(spec)
    assert (config.data.source, config.data.path) == ("emoji", None)
    assert 4 <= config.steps <= 6
    assert config.batch_size == 16
    assert config.augment.size == 32
    # What a smoke run is there to execute must be what the real run executes.
    for section in ("objective", "optimizer", "precision"):
        assert config[section] == full[section]
    assert config.views == full.views
    assert config.augment.auto_augment == full.augment.auto_augment
    assert (config.model.text.layers > 0) == (full.model.text.layers > 0)
    assert len(config.model.head.hidden) == len(full.model.head.hidden)


@pytest.mark.parametrize("name", VARIANTS)
def test_header_says_what_it_is(name):
    path = ROOT / "configs" / f"{name}.py"
    header = ast.get_docstring(ast.parse(path.read_text()))
    fields = re.findall(r"^(\w+):", header, re.MULTILINE)
    assert fields[:5] == ["Command", "Variants", "Hardware", "Hours", "Expected"]
    assert f"--config=configs/{name}.py" in header
    for word in [variant for variant in VARIANTS[name] if variant] + ["smoke"]:
        assert f":{word}" in header, f"variant {word} is not in the header"


def test_paper_recipe():
    config = load_config(str(ROOT / "configs" / "imagenet.py"))
    assert (config.epochs, config.batch_size, config.views) == (100, 1024, 2)
    assert (config.model.encoder, config.model.head.hidden, config.model.head.dim) == ("resnet50", (2048,), 128)
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.learning_rate, optimizer.lr_scaling) == ("lars", 0.075, "sqrt")
    assert (optimizer.weight_decay, optimizer.warmup, optimizer.schedule) == (1e-4, 0.1, "cosine")
    assert (config.objective.temperature, config.objective.target_temperature) == (0.1, 0.1)
    assert config.objective.graph == "class_text"


def test_the_probe_that_is_trained_along_is_on_where_there_are_labels():
    probed = {
        name: load_config(f"{ROOT}/configs/{name}.py").eval.online_probe
        for name in ("imagenet", "finetune", "cc3m", "cc12m")
    }
    assert probed == {"imagenet": True, "finetune": True, "cc3m": False, "cc12m": False}


@pytest.mark.parametrize("baseline", ["simclr", "supcon"])
def test_baseline_changes_only_the_objective(baseline):
    ours = load_config(str(ROOT / "configs" / "imagenet.py"))
    theirs = load_config(str(ROOT / "configs" / "baselines" / f"{baseline}.py"))
    assert all(key == "name" or key.startswith("objective.") for key in diff_configs(ours, theirs))
    assert theirs.objective.preset == baseline


def test_quickstart_variants_share_everything_but_the_objective():
    base = load_config(str(ROOT / "configs" / "quickstart.py"))
    for variant in VARIANTS["quickstart"][1:]:
        other = load_config(str(ROOT / "configs" / f"quickstart.py:{variant}"))
        assert other.objective.preset == variant
        unfair = [key for key in diff_configs(base, other) if not key.startswith(("name", "objective."))]
        # A learning rate of its own is what a tuned comparison gives each objective.
        assert set(unfair) <= {"optimizer.learning_rate"}


def test_shapes_takes_one_word_of_each_group():
    path = ROOT / "configs" / "shapes.py"
    config = load_config(f"{path}:ground,simclr,erase_color")
    assert (config.objective.preset, config.data.caption) == ("simclr", str(CAPTIONS.index(("ground",))))
    assert config.augment.jitter == 1
    assert (load_config(str(path)).augment.jitter, load_config(str(path)).data.caption) == (0, "0")
    assert load_config(f"{path}:object").data.caption == str(CAPTIONS.index(("shape", "color", "texture", "count")))
    with pytest.raises(ConfigError, match="only one of ground, shape"):
        read_config_file(path, "ground,shape")


def test_unknown_and_contradictory_variants():
    with pytest.raises(ConfigError, match="Did you mean simclr"):
        read_config_file(ROOT / "configs" / "quickstart.py", "simclrr")
    with pytest.raises(ConfigError, match="only one of simclr, supcon"):
        read_config_file(ROOT / "configs" / "quickstart.py", "supcon,simclr,smoke")

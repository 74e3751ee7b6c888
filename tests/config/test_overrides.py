import pytest

from xsample_jax.config import apply_overrides, default_config, flat_keys, load_config
from xsample_jax.config.load import example, parse_value
from xsample_jax.tools.cli import split_overrides


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("batch_size", "64", 64),
        ("batch_size", "1_024", 1024),
        ("steps", "1e5", 100_000),
        ("steps", "None", None),
        ("mesh.data", "-1", -1),
        ("epochs", "none", None),
        ("epochs", "2", 2.0),
        ("optimizer.learning_rate", "1e-3", 0.001),
        ("optimizer.learning_rate", ".5", 0.5),
        ("optimizer.clip_norm", "1.0", 1.0),
        ("optimizer.clip_norm", "None", None),
        ("model.head.batch_norm", "false", False),
        ("model.head.batch_norm", "True", True),
        ("augment.auto_augment", "1", True),
        ("objective.learn_temperature", "true", True),
        ("objective.learn_temperature", "None", None),
        ("model.head.hidden", "(512,256)", (512, 256)),
        ("model.head.hidden", "512,256", (512, 256)),
        ("model.head.hidden", "[512, 256]", (512, 256)),
        ("model.head.hidden", "512", (512,)),
        ("model.head.hidden", "(512,)", (512,)),
        ("model.head.hidden", "()", ()),
        ("augment.crop_scale", "0.2,1", (0.2, 1.0)),
        ("augment.jitter_strength", "(0.8,0.8,0.8,2e-1)", (0.8, 0.8, 0.8, 0.2)),
        ("name", "None", "None"),  # not optional: just a text
        ("name", "'quoted, text'", "quoted, text"),
        ("name", "a=b", "a=b"),
        ("name", "", ""),
        ("data.path", "/data/with space:and=signs", "/data/with space:and=signs"),
        ("data.path", "None", None),
        ("data.caption", "0", "0"),
        ("mesh.topology", "v5e:4x4", "v5e:4x4"),
    ],
)
def test_values(key, text, value):
    config = default_config()
    assert apply_overrides(config, [f"--config.{key}={text}"]) == []
    section = config
    for part in key.split("."):
        section = section[part]
    assert section == value
    assert type(section) is type(value)


@pytest.mark.parametrize("key", flat_keys())
def test_every_key_can_be_overridden_with_its_own_example(key):
    declared = flat_keys()[key]
    text = example(declared)
    parsed = parse_value(declared, text)
    elements = declared.default if isinstance(declared.default, tuple) else (declared.default,)
    if any(isinstance(element, float) for element in elements):
        assert parsed == pytest.approx(declared.default, rel=1e-5)
    elif declared.default is not None:
        assert parsed == declared.default
    assert apply_overrides(default_config(), [f"--config.{key}={text}"]) == []


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("--config.steps=1.5", ["steps = '1.5'", "an integer >= 1"]),
        ("--config.steps=inf", ["steps = 'inf'", "an integer >= 1"]),
        ("--config.batch_size=None", ["batch_size = 'None'", "--config.batch_size=256"]),
        ("--config.model.head.hidden=a,b", ["a tuple of integers", "--config.model.head.hidden=2048"]),
        ("--config.model.head.hidden=512,,256", ["a tuple of integers"]),
        ("--config.model.head.batch_norm=maybe", ["true or false"]),
        ("--config.optimizer.lr=1", ["Did you mean optimizer.learning_rate?"]),
        ("--config.optimiser.name=lars", ["Did you mean optimizer.name"]),
        ("--config.model=resnet", ["model is a section with the keys encoder, width"]),
        ("--config.model.head=3", ["model.head is a section with the keys hidden, dim"]),
        ("--config.steps", ["Write --config.steps=VALUE"]),
        ("--config.name='open", ["a text"]),
    ],
)
def test_overrides_that_cannot_be_read(override, parts):
    config = default_config()
    before = config.to_json()
    (problem,) = apply_overrides(config, [override])
    for part in parts:
        assert part in str(problem)
    assert config.to_json() == before


def test_last_one_wins_and_prefixes_are_optional():
    config = default_config()
    assert apply_overrides(config, ["--config.seed=1", "config.seed=2", "seed=3"]) == []
    assert config.seed == 3


def test_right_type_but_wrong_value_is_found_by_the_check(tmp_path):
    path = tmp_path / "run.py"
    path.write_text("from xsample_jax.config import default_config\ndef get_config():\n    return default_config()\n")
    assert load_config(str(path), ["--config.steps=5"]).steps == 5
    with pytest.raises(ValueError, match=r"objective.preset = 'xclrr': .* Did you mean xclr"):
        load_config(str(path), ["--config.steps=5", "--config.objective.preset=xclrr"])


def test_split_overrides():
    arguments = ["main", "--config=x.py", "--config.seed=1", "--workdir=w", "--dry_run", "--config.views=3"]
    assert split_overrides(arguments) == (
        ["--config.seed=1", "--config.views=3"],
        ["main", "--config=x.py", "--workdir=w", "--dry_run"],
    )

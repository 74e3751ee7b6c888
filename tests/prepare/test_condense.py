"""Condensing a dataset: the published distances and gradients, and a command that can be stopped at any time."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from tests.objectives.golden_inputs import CASES, LABELS, Z1, Z2, extra
from tests.tiny import tiny_config
from xsample_jax.data.dataset import open_for_a_look
from xsample_jax.data.records import open_records, read_manifest
from xsample_jax.data.writer import write_records
from xsample_jax.errors import ConfigError
from xsample_jax.prepare import condense as module
from xsample_jax.prepare.condense import Recipe, check_recipe, distance, matching
from xsample_jax.tools.condense import main

DCC = "DCC: gradient matching of all classes together"


def linear(params, x, labels):
    return optax.softmax_cross_entropy_with_integer_labels(x @ params["kernel"], labels)


def by_class(z, labels):
    """(rows of every class beside each other [C, n, D], which of them there are)."""
    rows = [z[labels == label] for label in range(4)]
    most = max(map(len, rows))
    padded = [np.pad(of, ((0, most - len(of)), (0, 0)), constant_values=3.0) for of in rows]
    there = np.array([np.arange(most) < len(of) for of in rows])
    return jnp.float32(np.stack(padded)), jnp.asarray(there)


@pytest.mark.parametrize("together", [True, False])
def test_distance_and_gradient_are_those_of_the_published_code(together):
    """Rows that pad a class to the length of the others count for nothing."""
    case = CASES[DCC]
    params = {"kernel": jnp.float32(extra(DCC, "w").T), "bias": jnp.ones(4)}
    real, made = by_class(Z1, LABELS), by_class(Z2, LABELS)
    value, slope = jax.jit(matching, static_argnums=(0, 4))(linear, params, real, made, together)
    also = case["also"]
    expected = (case["expected"], also["gradient_norm_synthetic"])
    expected = expected if together else (also["class_wise"], also["gradient_norm_synthetic_class_wise"])
    assert (float(value), float(jnp.linalg.norm(slope))) == pytest.approx(expected, rel=1e-4)
    assert not np.asarray(slope)[~np.asarray(made[1])].any()


def test_with_one_class_both_forms_are_one():
    params = {"kernel": jnp.float32(extra(DCC, "w").T)}
    real, made = ((jnp.float32(z)[None], jnp.ones((1, 12), bool)) for z in (Z1, Z2))
    found = [matching(linear, params, real, made, together) for together in (True, False)]
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-6)
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-4, atol=1e-5)
    assert np.abs(found[0][1]).max() > 0


def test_the_distance_is_a_sum_over_outputs_and_skips_biases():
    """A convolution [2, 2, 3, 5] has five outputs; a column of zeros is at a distance of 1 and has no gradient."""
    rng = np.random.default_rng(0)
    x, y = ({"conv": rng.normal(size=(2, 2, 3, 5)), "bias": rng.normal(size=5)} for _ in range(2))
    y["conv"][..., 2] = 0
    expected = 0
    for out in range(5):
        a, b = x["conv"][..., out].ravel(), y["conv"][..., out].ravel()
        expected += 1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-6)
    x, y = jax.tree.map(jnp.float32, (x, y))
    value, slope = jax.value_and_grad(lambda y: distance(x, y))(y)
    assert value == pytest.approx(expected, rel=1e-5)
    assert np.isfinite(slope["conv"]).all()
    assert not slope["bias"].any()


def test_the_plan_of_a_recipe_is_that_of_the_paper():
    plans = {size: Recipe(size).complete() for size in (1, 5, 10, 49, 50, 200)}
    assert [(plan.matches, plan.passes) for plan in plans.values()] == [(10, 5)] * 2 + [(10, 50)] * 2 + [(50, 10)] * 2
    plan = Recipe(50).complete()
    assert [plan.together(*at) for at in ((0, 0), (0, 9), (0, 10), (249, 9), (250, 0))] == [0, 0, 1, 0, 1]
    assert not Recipe(50, match="class").complete().together(999, 49)
    with pytest.raises(ConfigError, match="never be matched together"):
        check_recipe(Recipe(1, networks=100, warmup=100))
    with pytest.raises(ConfigError, match="--rate") as caught:
        check_recipe(Recipe(0, rate=float("nan"), match="all", start="mean"))
    assert [problem.field for problem in caught.value.problems] == ["--per_class", "--rate", "--match", "--start"]


# The command, on a set of two classes of colors with an encoder of mean colors.


def png(color):
    file = io.BytesIO()
    noise = np.random.default_rng(int(color[0])).integers(-9, 9, (12, 12, 3))
    Image.fromarray(np.uint8(np.clip(np.array(color) + noise, 0, 255))).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def colors(tmp_path):
    """Five reddish and three bluish images, a class without images, and one image without a class."""
    shades = [(200 - 9 * n, 40, 40) for n in range(5)] + [(40, 60, 200 - 9 * n) for n in range(3)]
    records = [{"id": n, "image": png(c), "label": 0 if n < 5 else 2} for n, c in enumerate(shades)]
    records.append({"id": 99, "image": png((9, 9, 9))})
    write_records(tmp_path / "colors", "colors", {"train": records}, class_names=("red", "green", "blue"))
    return tmp_path / "colors"


def arguments(data, out, *more):
    small = ("--per_class=2", "--networks=3", "--matches=2", "--passes=1", "--real=4", "--warmup=1")
    return [f"--data={data}", f"--out={out}", *small, *more]


def images_of(folder):
    source = open_records(folder, "train")
    return [np.asarray(Image.open(io.BytesIO(source[n]["image"]))) for n in range(len(source))]


@pytest.mark.usefixtures("linear_encoder")
def test_a_set_is_condensed_and_continues_where_it_was_stopped(colors, tmp_path, capsys, monkeypatch):
    """Stopped after the second network and started again, it gives the same bytes; what it writes can be trained on."""
    assert main(arguments(colors, tmp_path / "whole", "--rate=300")) == 0
    told = capsys.readouterr().out
    assert "4 images in split train" in told
    manifest = read_manifest(tmp_path / "whole")
    assert manifest.class_names == ("red", "green", "blue")
    source = open_records(tmp_path / "whole", "train")
    assert [source[n]["label"] for n in range(4)] == [0, 0, 2, 2]
    assert sorted(path.name for path in (tmp_path / "whole").iterdir() if path.name != ".lock") == [
        "manifest.json",
        "train-00000-of-00001.arrayrecord",
    ]

    def stopped(items, title, total):
        for number, item in enumerate(items):
            if title == "networks" and number == 2:
                raise KeyboardInterrupt
            yield item

    with monkeypatch.context() as patch:
        patch.setattr(module, "progress", stopped)
        patch.setattr(module, "SAVE_EVERY", 0.0)
        assert main(arguments(colors, tmp_path / "parts", "--rate=300")) == 130
    assert not (tmp_path / "parts" / "manifest.json").exists()
    assert main(arguments(colors, tmp_path / "parts", "--rate=400")) == 2
    assert "the state of this very command" in capsys.readouterr().err
    assert main(arguments(colors, tmp_path / "parts", "--rate=300")) == 0
    assert read_manifest(tmp_path / "parts").fingerprint == manifest.fingerprint
    few = "--config.data.samples_per_class=1"
    assert main(arguments(colors, tmp_path / "few", "--rate=1e-6", few)) == 0
    assert len({image.tobytes() for image in images_of(tmp_path / "few")}) == 2  # of one image of a class, twice
    assert main(arguments(colors, tmp_path / "unmoved", "--rate=1e-6")) == 0
    moved = [
        np.abs(a.astype(int) - b).max() for a, b in zip(*map(images_of, (tmp_path / "whole", tmp_path / "unmoved")))
    ]
    assert min(moved) > 3
    changes = {"source": "records", "path": str(tmp_path / "whole")}
    config = tiny_config(
        objective__preset="supcon", eval__suite="none", **{f"data__{k}": v for k, v in changes.items()}
    )
    example = open_for_a_look(config)[3]
    assert (example["label"], example["image"].shape[2]) == (2, 3)


@pytest.mark.usefixtures("linear_encoder")
def test_bad_input_is_one_line_and_writes_nothing(colors, tmp_path, capsys):
    out = tmp_path / "out"
    write_records(tmp_path / "bare", "bare", {"train": [{"id": 0, "image": png((1, 2, 3))}]})
    given = {
        "at least two": arguments(tmp_path / "bare", out),
        "a number from 1 to 10000": arguments(colors, out, "--per_class=0"),
        "contrastive or class": arguments(colors, out, "--match=both"),
        "a folder without a finished set": arguments(colors, colors),
        "Did you mean": arguments(colors, out, "--config.model.encodr=resnet18"),
        "images alone": arguments(colors, out, "--config.augment.bits=2"),
        "manifest.json": arguments(tmp_path / "nowhere", out),
    }
    for message, flags in given.items():
        assert main(flags) == 2, message
        told = capsys.readouterr().err
        assert message in told
        assert "Traceback" not in told
    assert not [path for path in out.glob("*") if path.name != ".lock"]
    assert main(["--data=emoji", "--config=quickstart", "--per_class=1", f"--out={out}"]) == 2

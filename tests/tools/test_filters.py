"""Statistics of 3x3 filters against a published implementation, on kernels whose answers are known, and as a page."""

import json
import pathlib
import types

import numpy as np
import pytest
from PIL import Image

from tests.tools.test_evaluate import save_run
from xsample_jax.encoder import load_encoder
from xsample_jax.errors import DataError
from xsample_jax.models import resnet
from xsample_jax.reports.filters import (
    components,
    describe,
    image_of,
    layers_of,
    orthogonality,
    random_entropy,
    scaled_filters,
    shift,
    shift_of_halves,
    sparsity,
    variance_entropy,
    write_filters,
)
from xsample_jax.tools.filters import main

CASES = json.loads((pathlib.Path(__file__).parents[1] / "evals" / "goldens.json").read_text())["cases"]
GOLDEN = next(case for case in CASES if case["name"].startswith("CNN filter"))
KERNEL = np.asarray(GOLDEN["extra"]["w"]).transpose(2, 3, 1, 0)  # [out, in, 3, 3] there


def test_statistics_are_the_published_ones():
    layer = describe("conv", KERNEL)
    assert layer.channels == (6, 8)
    assert layer.entropy == pytest.approx(GOLDEN["expected"], rel=1e-5)
    assert layer.sparsity == pytest.approx(GOLDEN["also"]["sparsity"])
    assert layer.orthogonality == pytest.approx(GOLDEN["also"]["orthogonality"], rel=1e-5)
    assert layer.of_random == pytest.approx(GOLDEN["also"]["entropy_over_that_of_random_filters"], rel=1e-5)


def test_kernels_whose_answers_are_known():
    rng = np.random.default_rng(0)
    zeros, ones = np.zeros((3, 3, 4, 5)), np.ones((3, 3, 4, 5))
    assert (sparsity(zeros), sparsity(ones)) == (1, 0)
    assert variance_entropy(zeros) == variance_entropy(ones) == 0
    assert (orthogonality(zeros), orthogonality(ones)) == (1, pytest.approx(0))
    noise = rng.normal(size=(3, 3, 32, 64))
    assert variance_entropy(noise) / random_entropy(32 * 64) == pytest.approx(1, abs=0.01)
    assert variance_entropy(noise) == pytest.approx(np.log10(9), abs=0.01)
    # One pattern in different strengths has a single component; half of the filters are dead.
    single = np.multiply.outer(rng.normal(size=(3, 3)), rng.normal(size=(4, 5)) + 3)
    assert variance_entropy(single) == pytest.approx(0, abs=1e-9)
    half = noise * (np.arange(64) < 32)
    assert sparsity(half) == 0.5
    for statistic in (sparsity, variance_entropy, orthogonality):
        assert statistic(1e-9 * noise) == pytest.approx(statistic(noise))


def test_the_shift_is_zero_for_the_same_filters_small_for_the_same_law_and_large_for_another():
    rng = np.random.default_rng(0)
    kernels = {"a": rng.normal(size=(3, 3, 16, 32)), "b": 1e-3 * rng.normal(size=(3, 3, 32, 32))}
    filters = scaled_filters(kernels)
    assert filters.shape == (16 * 32 + 32 * 32, 9)
    assert np.abs(filters).max() == 1
    assert shift(filters, filters) == 0
    other = scaled_filters({"c": rng.normal(size=(3, 3, 24, 64))})
    smooth = scaled_filters({"d": rng.normal(size=(3, 3, 24, 64)) + 2 * rng.normal(size=(1, 1, 24, 64))})
    chance = shift_of_halves(filters)
    assert shift(filters, smooth) == pytest.approx(shift(smooth, filters))
    assert shift(filters, other) < 4 * chance
    assert shift(filters, smooth) > 5 * chance
    vectors, share = components(smooth)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(9), atol=1e-9)
    assert share[0] > 0.7  # the mean of the filter
    np.testing.assert_allclose(vectors[0], 1 / 3, atol=0.05)
    assert (image_of(vectors[0])[..., 0] == 255).all()  # red
    assert (image_of(-vectors[0])[..., 2] == 255).all()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate(("one", "two")):
        save_run(folder / name, steps=(1,), seed=seed)
    return folder


def test_the_page_compares_two_runs(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(resnet.LAYOUTS, 18, (resnet.BasicBlock, (1,)))
    encoder = load_encoder(runs / "one")
    assert next(iter(layers_of(encoder))).startswith("stem")
    out = tmp_path / "page.html"
    assert main([f"--run={runs / 'one'}", f"--against={runs / 'two'}", f"--out={out}"]) == 0
    printed = capsys.readouterr().out
    assert "shift of the distribution" in printed
    page = out.read_text()
    for name, kernel in layers_of(encoder).items():
        assert name in printed
        assert f"{100 * sparsity(kernel):.1f}%" in page
    assert page.count("<img ") == 2 * 9
    assert Image.open(tmp_path / "page_figures" / "filters.png").size[0] >= 760
    assert main([f"--run={runs / 'one'}", f"--out={out}"]) == 0
    assert "shift" not in capsys.readouterr().out


def test_an_encoder_without_such_filters_is_refused_before_a_page_is_written(tmp_path):
    config = types.SimpleNamespace(model=types.SimpleNamespace(encoder="vit_s"))
    vit = types.SimpleNamespace(arrays={"patches/kernel": np.zeros((16, 16, 3, 8))}, config=config)
    with pytest.raises(DataError, match=r"convolutions of vit_s = '16x16': expected some of 3x3"):
        write_filters([("vit", vit)], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()

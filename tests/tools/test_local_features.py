"""Clusters of local features: k-means finds what is there, maps are those of the encoder, images show them."""

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import xsample_jax
from tests.tiny import tiny_config
from xsample_jax.errors import BAD_INPUT
from xsample_jax.evals.clusters import k_means
from xsample_jax.models import resnet
from xsample_jax.models.vit import LAYOUTS, Shape, ViT
from xsample_jax.reports.local_features import MOST_CLUSTERS, cluster_maps, overlay, palette
from xsample_jax.reports.style import COLORS
from xsample_jax.tools.local_features import main


def test_clusters_are_those_that_are_there():
    rng = np.random.default_rng(0)
    truth = rng.permutation(np.repeat(np.arange(4), [80, 60, 40, 20]))
    points = 10 * rng.normal(size=(4, 6))[truth] + 0.1 * rng.normal(size=(200, 6))
    np.testing.assert_array_equal(k_means(points, 4), truth)  # numbered by size
    np.testing.assert_array_equal(k_means(points[::-1], 4, seed=5), truth[::-1])


def test_the_end_of_k_means_is_a_fixed_point():
    points = np.random.default_rng(1).normal(size=(300, 5))
    found = k_means(points, 5)
    centers = np.stack([points[found == number].mean(axis=0) for number in range(5)])
    distances = ((points[:, None] - centers) ** 2).sum(axis=2)
    np.testing.assert_array_equal(distances.argmin(axis=1), found)
    # Better than one cluster by more than a random partition is.
    inside = distances[np.arange(300), found].sum()
    assert inside < 0.8 * ((points - points.mean(axis=0)) ** 2).sum()


def test_fewer_points_than_clusters():
    assert k_means(np.ones((7, 3)), 4).tolist() == [0] * 7
    two = k_means(np.repeat(np.eye(2), [5, 2], axis=0), 6)
    assert two.tolist() == [0] * 5 + [1] * 2


def test_length_does_not_matter_and_images_share_clusters():
    rng = np.random.default_rng(2)
    kinds = rng.integers(0, 3, (4, 5, 6))
    maps = np.eye(3, 8)[kinds] * rng.uniform(0.5, 20, (4, 5, 6, 1))
    (found,) = cluster_maps({"stage 1": maps}, 3).values()
    assert found.shape == (4, 5, 6)
    for kind in range(3):
        assert len(np.unique(found[kinds == kind])) == 1


def test_overlay_paints_every_cell_in_the_color_of_its_cluster():
    clusters = np.array([[0, 1], [2, 3]])
    image = np.full((8, 8, 3), 100, np.uint8)
    painted = overlay(image, clusters, share=0.5)
    for number, (top, left) in enumerate(((0, 0), (0, 4), (4, 0), (4, 4))):
        color = np.array([int(COLORS[number][place : place + 2], 16) for place in (1, 3, 5)])
        part = painted[top : top + 4, left : left + 4].reshape(-1, 3)
        assert np.abs(part - (color + 100) / 2).max() <= 0.5
    assert len(set(palette())) == MOST_CLUSTERS


@pytest.mark.parametrize("layout", ["plain", "timm"])
def test_maps_of_a_vit_are_its_tokens_in_their_places(layout):
    model = ViT(Shape(16, 8, 2), 4, 16, layout=LAYOUTS[layout], rngs=nnx.Rngs(0))
    images = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    maps = model.maps(images)
    assert {name: map_.shape for name, map_ in maps.items()} == {f"block {n}": (2, 4, 4, 16) for n in (2, 4, 6, 8)}
    if layout == "plain":
        last = model.norm(maps["block 8"].reshape(2, 16, 16)).mean(axis=1)
        np.testing.assert_allclose(last, model(images), rtol=1e-5, atol=1e-5)
    # Of 8 blocks the first two see the whole image, but mostly their own patch: it is where the change is largest.
    changed = model.maps(images.at[0, 4:8, 8:12].add(1.0))["block 2"]
    moved = np.linalg.norm(np.asarray(changed - maps["block 2"]), axis=-1)[0]
    assert np.unravel_index(moved.argmax(), moved.shape) == (1, 2)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet.LAYOUTS, 18, (resnet.BasicBlock, (1, 1)))
        patch.setattr("xsample_jax.loop.write_report", lambda runs, path: None)
        folder = tmp_path_factory.mktemp("run")
        xsample_jax.train(tiny_config(steps=1, checkpoint__every=1), folder)
        yield folder


def test_the_page_shows_twelve_images_at_every_depth(run, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert main([f"--run={run}", f"--out={out}", "--split=val", "--clusters=4"]) == 0
    assert str(out) in capsys.readouterr().out
    page = out.read_text()
    assert page.count("<img ") == 12 * 3
    assert "stage 1" in page
    assert "stage 2" in page
    sheet = Image.open(tmp_path / "page_figures" / "local_features.png")
    assert sheet.size[0] > 3 * 96
    encoder = xsample_jax.load_encoder(run)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 4), dtype=np.uint8)
    *_, last = encoder.maps(images).values()
    np.testing.assert_allclose(last.mean(axis=(1, 2)), np.asarray(encoder.forward(images)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--clusters=1", "2 to 12"),
        ("--clusters=13", "2 to 12"),
        ("--images=0", "1 to 1000"),
        ("--split=nowhere", "nowhere"),
        ("--run=/nowhere", "/nowhere"),
        ("--config.data.path=/nowhere", "data"),
    ],
)
def test_wrong_flags(run, tmp_path, capsys, flag, words):
    assert main([f"--run={run}", f"--out={tmp_path / 'p.html'}", flag]) == BAD_INPUT
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error

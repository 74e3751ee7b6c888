"""Vectors instead of images: exact to the device, views by a formula, and a run from a file to features."""

import pathlib
from importlib.util import find_spec

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import xsample_jax
from xsample_jax.augment.views import as_vectors, draw_numbers, eval_view, make_views, map_random_views
from xsample_jax.config import default_config, resolve
from xsample_jax.config.rules_data import OF_IMAGES
from xsample_jax.data.records import open_records
from xsample_jax.data.vectors import decode_vector, draw_vectors, encode_vector
from xsample_jax.errors import ConfigError, DataError, Problems, UserError
from xsample_jax.prepare.example import Fields
from xsample_jax.prepare.vectors import vectors_source
from xsample_jax.tools import embed, encode, export, local_features, prepare

WIDE = 12


def augment(**changes):
    section = default_config().augment
    section.update(changes)
    return section


def test_numbers_reach_the_device_as_they_are():
    rows = np.random.default_rng(0).standard_normal((5, WIDE)).astype(np.float16)
    rows[0, :3] = 0.0, -65504.0, 6e-8
    batch = np.stack([decode_vector(encode_vector(row), WIDE) for row in rows])
    np.testing.assert_array_equal(as_vectors(jnp.asarray(batch)), rows.astype(np.float32))
    np.testing.assert_array_equal(eval_view(jnp.asarray(batch), augment()), rows.astype(np.float32))
    drawn = draw_vectors(batch)
    assert drawn.shape == (5, 32, 32, 3)
    assert drawn[0, 0, 8, 0] == 0  # the largest negative number is black


def test_views_lose_features_and_have_noise():
    rows = np.random.default_rng(1).normal(3, 2, (512, WIDE)).astype(np.float16)
    batch = jnp.asarray(np.stack([decode_vector(encode_vector(row), WIDE) for row in rows]))
    exact, ids = rows.astype(np.float32), jnp.arange(512)
    views = lambda ids=ids, step=0, **changes: np.asarray(  # noqa: E731
        make_views(batch, ids, 0, jnp.asarray(step), augment(**changes), 2)
    ).reshape(512, 2, WIDE)
    np.testing.assert_array_equal(views(), exact[:, None].repeat(2, axis=1))
    lost = views(dropout=0.3)
    mean = exact.mean(axis=0)
    kept = lost == exact[:, None]
    np.testing.assert_allclose(lost[~kept], np.broadcast_to(mean, lost.shape)[~kept], rtol=1e-5)
    assert abs((~kept).mean() - 0.3) < 0.015
    assert abs((~kept[:, 0] & ~kept[:, 1]).mean() - 0.09) < 0.015  # views of a vector are drawn apart
    noise = views(noise=0.5) - exact[:, None]
    np.testing.assert_allclose(noise.std(axis=(0, 1)), 0.5 * exact.std(axis=0), rtol=0.1)
    assert abs(np.corrcoef(noise[:, 0].ravel(), noise[:, 1].ravel())[0, 1]) < 0.05
    order = np.random.default_rng(2).permutation(512)
    shuffled = make_views(batch[order], ids[order], 0, jnp.asarray(0), augment(noise=0.5), 2).reshape(512, 2, WIDE)
    np.testing.assert_allclose(shuffled, views(noise=0.5)[order], rtol=1e-4, atol=1e-4)
    assert np.abs(views(noise=0.5, step=1) - views(noise=0.5)).max() > 0.1
    mapped = map_random_views(lambda view: view, batch, draw_numbers(0, 0, ids, 2), augment(noise=0.5))
    np.testing.assert_allclose(np.moveaxis(mapped, 0, 1), views(noise=0.5), rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A dataset by the tools: 90 vectors of three classes, with captions and the graph of another file."""
    place = tmp_path_factory.mktemp("vectors")
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    rows = rng.standard_normal((3, WIDE))[labels] * 3 + rng.standard_normal((90, WIDE))
    rows[:, 0] += 100  # a column with units of its own
    names = np.array(["bird", "rain", "train"])[labels]
    np.savez(place / "sounds.npz", sound=rows, caption=np.char.add("the sound of a ", names), label=names)
    flags = ["--source=vectors", f"--path={place}/sounds.npz", f"--out={place}/set", "--splits=train=0.7,test=0.3"]
    assert prepare.main(flags) == 0
    np.savez(place / "graph.npz", label=np.array(["bird", "rain", "train"]), vector=np.eye(3))
    assert embed.main([f"--data={place}/set", f"--vectors={place}/graph.npz", "--key=label"]) == 0
    return place


def config_of(folder, **changes):
    config = default_config()
    config.name = "sounds"
    config.update(steps=12, batch_size=32, views=2)
    config.data.update(source="vectors", path=str(folder / "set"), image_size=WIDE, threads=1)
    config.augment.update(noise=0.1, dropout=0.1)
    config.model.update(encoder="mlp2", width=16)
    config.model.head.update(hidden=(16,), dim=8)
    config.optimizer.update(name="adamw", learning_rate=1e-2)
    config.eval.update(suite="probe", split="test", batch_size=32)
    config.log.every, config.checkpoint.every = 6, 12
    config.update_from_flattened_dict(changes)
    return config


def test_from_a_file_to_features(folder, tmp_path, capsys):
    source = open_records(folder / "set", "train")
    assert source.manifest.class_names == ("bird", "rain", "train")
    assert source[0]["captions"] == [f"the sound of a {source.manifest.class_names[source[0]['label']]}"]
    metrics = xsample_jax.train(config_of(folder), tmp_path / "run")
    assert metrics["label/knn"] > 0.6
    assert (tmp_path / "run" / "report.html").exists()
    encoder = xsample_jax.load_encoder(tmp_path / "run")
    rows = np.load(folder / "sounds.npz")["sound"]
    features = encoder.encode(rows)
    assert features.shape == (90, 16)
    np.testing.assert_allclose(encoder.encode(rows[3]), features[3], rtol=1e-4, atol=1e-5)
    out = tmp_path / "test.npy"
    assert encode.main([f"--run={tmp_path}/run", "--split=train", f"--out={out}"]) == 0
    np.testing.assert_allclose(np.load(out)[0], features[source[0]["id"]], rtol=1e-4, atol=1e-5)
    encoder.save(tmp_path / "e.npz")
    np.testing.assert_array_equal(
        xsample_jax.load_encoder(tmp_path / "e.npz").encode(rows[:2]), encoder.encode(rows[:2])
    )
    with pytest.raises(ConfigError, match="image_size=5"):
        encoder.encode(np.zeros((2, 5)))
    for wrong in (["x.npy"], "x.npy", [None], [Image.new("RGB", (WIDE, WIDE))], [[[1.0], [1.0, 2.0]]]):
        with pytest.raises(DataError, match=r"numbers \[E\]|shape"):
            encoder.encode(wrong)
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    capsys.readouterr()
    flags = [f"--run={tmp_path}/run", f"--path={tmp_path}", "--skip_broken", f"--out={tmp_path}/photos.npy"]
    assert encode.main(flags) == 2
    assert "numbers [E]" in (said := capsys.readouterr().err)
    assert "--split" in said
    assert local_features.main([f"--run={tmp_path}/run", f"--out={tmp_path}/page.html"]) == 2
    assert "a resnet or a vit" in capsys.readouterr().err
    for form in export.FORMATS:  # faults D4: ONNX ended in a traceback of its converter
        if form == "npz" or (form == "onnx" and not find_spec("jax2onnx")):
            continue
        assert export.main([f"--run={tmp_path}/run", f"--format={form}", f"--out={tmp_path}/encoder"]) == 2
        assert "expected an encoder of images" in capsys.readouterr().err
    assert export.main([f"--run={tmp_path}/run", "--format=npz", f"--out={tmp_path}/encoder.npz"]) == 0
    again = xsample_jax.load_encoder(tmp_path / "encoder.npz")
    np.testing.assert_array_equal(again.module.features, encoder.module.features)
    assert again.channels == encoder.channels


def test_what_does_not_go_together(folder, tmp_path):
    with pytest.raises(ConfigError, match="image_size=12"):
        xsample_jax.train(config_of(folder, **{"data.image_size": 13, "eval.suite": "none"}), tmp_path / "a")
    as_images = {"data.source": "records", "augment.noise": 0.0, "augment.dropout": 0.0, "data.image_size": 32}
    with pytest.raises(ConfigError, match="source=vectors"):
        xsample_jax.train(config_of(folder, **as_images, **{"eval.suite": "none"}), tmp_path / "b")
    wrong = {"model.encoder": "resnet18", "augment.bits": 2}
    with pytest.raises(Problems, match=r"(?s)mlp1 to mlp4.*augment\.bits|augment\.bits.*mlp1 to mlp4"):
        resolve(config_of(folder, **wrong))
    with pytest.raises(UserError, match=r"data\.source=vectors"):
        resolve(config_of(folder, **{"data.source": "emoji", "data.path": None, "data.image_size": 32}))
    np.savez(tmp_path / "bad.npz", x=np.full((2, 9), 1e6), id=[0, 1])
    assert prepare.main(["--source=vectors", f"--path={tmp_path}/bad.npz", f"--out={tmp_path}/bad"]) == 2


def test_the_page_lists_the_augmentation_that_is_refused():
    page = (pathlib.Path(__file__).parents[2] / "docs" / "vectors.md").read_text()
    refused = page[page.index("Refused with vectors") :]
    assert [key for key in OF_IMAGES if key.startswith("augment.") and f"`{key}`" not in refused] == []


def test_tiny_vectors_are_refused_not_made_zero(tmp_path):
    """faults C3: below 6e-8 every number became 0."""
    rows = np.random.default_rng(0).random((6, 4)) + 0.5
    for size in (1e-8, 1e-7, 1e-300):
        with pytest.raises(DataError, match="too small for float16"):
            encode_vector(rows[0] * size)
    for row in (rows[0] * 1e-4, np.zeros(4), np.array([1e-9, 1.0])):
        np.testing.assert_allclose(
            decode_vector(encode_vector(row), len(row)).view("<f2").ravel(), row, rtol=1e-2, atol=1e-8
        )


def test_columns_that_lose_their_digits_are_named(tmp_path):
    """faults C3: a tiny column beside large ones, and one with a large offset."""
    rows = np.random.default_rng(0).normal(size=(50, 4)) * [1, 1e-9, 1, 1] + [0, 0, 30_000, 5]
    np.savez(tmp_path / "a.npz", x=rows)
    notes = vectors_source(str(tmp_path / "a.npz"), Fields(), 10).notes
    assert [note for note in notes if "standardize" in note] == [
        "2 of 4 numbers of a vector (at 1, 2) lose more than a tenth of their spread in float16: standardize them."
    ]
    np.savez(tmp_path / "a.npz", x=rows[:, [0, 3]])
    assert len(vectors_source(str(tmp_path / "a.npz"), Fields(), 10).notes) == 1

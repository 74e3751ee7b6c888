"""Several sets as one: classes by name, places for ids, one text encoder; drawn in their shares by a run's batches."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.tiny import tiny_config
from xsample_jax.data import sources
from xsample_jax.data import sources as labels_of_splits
from xsample_jax.data.dataset import open_dataset, train_batches
from xsample_jax.data.records import open_records
from xsample_jax.data.sources import Mixture, open_training_source
from xsample_jax.data.writer import write_records
from xsample_jax.errors import ConfigError, DataError, UserError

ENCODER = {"name": "e", "revision": "1", "pooling": "mean", "dim": 4, "normalised": True, "template": "{caption}"}


def gray(value):
    out = io.BytesIO()
    Image.new("L", (32, 32), value).save(out, "PNG")
    return out.getvalue()


def write(folder, count, names, value, encoder=ENCODER, attributes=None):
    rows = np.full((1, 4), 0.5, np.float16)
    records = [
        {"id": i, "image": gray(value), "label": i % len(names) if names else 5, "captions": [f"{folder.name} {i}"],
         "attributes": dict.fromkeys(attributes or (), 0)} | ({"caption_embeddings": rows} if encoder else {})
        for i in range(count)
    ]  # fmt: skip
    write_records(folder, folder.name, {"train": records}, names, attributes, encoder)
    return folder


@pytest.fixture
def folders(tmp_path):
    return (
        write(tmp_path / "a", 30, ["cat", "dog"], 10, attributes={"style": ["flat"], "hue": ["red"]}),
        write(tmp_path / "b", 10, ["emu", "cat", "dog"], 200, attributes={"style": ["flat"], "hue": ["blue"]}),
        write(tmp_path / "c", 5, [], 90),
    )


def test_classes_by_name_places_for_ids_attributes_that_are_the_same(folders):
    mixture = Mixture([open_records(folder, "train") for folder in folders])
    assert len(mixture) == 45
    assert mixture.manifest.class_names == ("cat", "dog", "emu")
    assert [mixture[i]["id"] for i in (0, 29, 30, 44)] == [0, 29, 30, 44]
    assert [mixture[i]["label"] for i in (0, 1, 30, 31, 32, 40)] == [0, 1, 2, 0, 1, -1]
    assert [mixture[i]["captions"][0] for i in (29, 30, 40)] == ["a 29", "b 0", "c 0"]
    assert mixture.locate(31).endswith("b/train-00000-of-00001.arrayrecord:1")
    read = [labels_of_splits.read_labels(source) for source in mixture.sources]
    np.testing.assert_array_equal(mixture.labels(read), [mixture[i]["label"] for i in range(45)])
    assert mixture.manifest.attributes == {}  # the third has none
    two = Mixture(mixture.sources[:2])
    assert two.manifest.attributes == {"style": ["flat"]}  # the hues differ
    assert two[35]["attributes"] == {"style": 0}
    assert two.manifest.fingerprint != mixture.manifest.fingerprint
    with pytest.raises(IndexError):
        mixture[45]


def test_another_text_encoder_is_refused_with_both_named(folders, tmp_path):
    other = write(tmp_path / "d", 3, [], 0, ENCODER | {"name": "another"})
    with pytest.raises(DataError, match=r"text encoder of .*d.*another.*'e'"):
        Mixture([open_records(folder, "train") for folder in (folders[0], other)])
    without = write(tmp_path / "f", 3, [], 0, None)
    with pytest.raises(DataError, match="text encoder"):
        Mixture([open_records(folder, "train") for folder in (folders[0], without)])
    rounded = write(tmp_path / "g", 3, [], 0, ENCODER | {"dtype": "bfloat16"})
    Mixture([open_records(folder, "train") for folder in (folders[0], rounded)])  # near the vectors of that model


def test_batches_hold_the_shares(folders):
    mix = tuple({"path": str(folder), "share": share} for folder, share in zip(folders[1:], (0.6, 0.2), strict=True))
    config = tiny_config(data__source="records", data__path=str(folders[0]), batch_size=45, data__mix=mix)
    source, rates = open_training_source(config.data)
    examples = open_dataset(config, "train", frozenset({"caption_embedding"}), source)
    examples.rates = rates
    iterator = train_batches(examples, config, 0)
    for _ in range(2):
        values, counts = np.unique(next(iterator)["image"][:, 0, 0, 0], return_counts=True)
        assert dict(zip(values.tolist(), counts.tolist(), strict=True)) == {10: 9, 90: 9, 200: 27}
    iterator.close()


def test_what_is_kept_of_all_sets_together_has_to_fit(folders, monkeypatch):
    mix = tuple({"path": str(folder), "share": 0.2} for folder in folders[1:])
    config = tiny_config(data__source="records", data__path=str(folders[0]), data__mix=mix, data__cache="ram")
    sizes = [sum(path.stat().st_size for path in folder.glob("train*.arrayrecord")) for folder in folders]
    for memory, fits in ((2 * sum(sizes), True), (2 * sum(sizes) - 1, False), (2 * max(sizes), False)):
        monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": memory}.get)
        if fits:
            open_training_source(config.data)
        else:
            with pytest.raises(ConfigError, match=r"data\.cache.*of 3 sets"):
                open_training_source(config.data)
    config.data.cache = "disk"
    monkeypatch.setattr(sources, "in_bucket", lambda path: True)
    monkeypatch.setenv("XSAMPLE_CACHE_GB", str((sum(sizes) - 1) / 1e9))
    with pytest.raises(ConfigError, match="XSAMPLE_CACHE_GB"):
        open_training_source(config.data)


def test_balance_reads_the_labels_once_where_that_is_long(folders, monkeypatch):
    config = tiny_config(data__source="records", data__path=str(folders[0]), data__balance=1.0)
    _, rates = open_training_source(config.data)
    assert rates.each.shape == (30,)
    assert not list(folders[0].glob("labels-*"))  # it was quick
    monkeypatch.setattr(labels_of_splits, "LONG", -1.0)
    open_training_source(config.data)
    (kept,) = folders[0].glob("labels-train-*.npy")
    np.save(kept, np.array([0] * 29 + [1], np.int32))
    _, rates = open_training_source(config.data)
    assert rates.each[29] == pytest.approx(29 * rates.each[0])


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        (({"path": "x"},), "data.mix.0. ="),
        (({"path": "x", "share": 1.5},), r"data.mix\[0\].share = 1.5"),
        (({"path": "x", "share": 0.6}, {"path": "y", "share": 0.4}), "less than 1 in all"),
    ],
)
def test_wrong_mixtures_are_refused(mix, message):
    with pytest.raises(UserError, match=message):
        tiny_config(data__source="records", data__path="p", data__mix=mix)
    with pytest.raises(UserError, match=r"data.mix.*emoji"):
        tiny_config(data__mix=({"path": "x", "share": 0.5},))

"""The shipped class texts of ImageNet: sane by the checks that people who rebuilt the paper's table use."""

import json
import shutil

import numpy as np
import pytest

from scripts.build_class_texts import build
from tests.captions.tiny_models import write_model
from xsample_jax.captions.encoders import JaxEncoder
from xsample_jax.data.class_texts import (
    FOLDER,
    imagenet_class_embeddings,
    load_class_embeddings,
    read_classes,
    read_embeddings,
)
from xsample_jax.data.records import open_records
from xsample_jax.data.writer import write_records
from xsample_jax.errors import DataError


@pytest.fixture(scope="module")
def cosines():
    rows = read_embeddings().astype(np.float32)
    return rows @ rows.T


def label(name: str) -> int:
    return [name for _, name in read_classes()].index(name)


def test_classes_are_the_thousand_in_their_order():
    classes = read_classes()
    assert len(classes) == len({wordnet_id for wordnet_id, _ in classes}) == 1000
    assert classes == sorted(classes)
    assert classes[207] == ("n02099601", "Golden Retriever")
    assert classes[504] == ("n03063599", "coffee mug")
    assert all(name == name.strip() and name for _, name in classes)


def test_unit_rows(cosines):
    assert read_embeddings().dtype == np.float16
    assert cosines.shape == (1000, 1000)
    np.testing.assert_allclose(np.diag(cosines), 1, atol=2e-3)


def test_golden_retriever_is_nearer_to_labrador_than_to_coffee_mug(cosines):
    golden, labrador, mug = label("Golden Retriever"), label("Labrador Retriever"), label("coffee mug")
    assert cosines[golden, labrador] > 0.6 > 0.5 > cosines[golden, mug]
    assert set(np.argsort(-cosines[golden])[1:6]) <= set(range(151, 269))  # dogs


def test_mean_similarity_of_different_classes(cosines):
    """0.35 in the histogram that a re-implementation reads off the paper; it asserts 0.30 to 0.40, as here."""
    mean = (cosines.sum() - np.trace(cosines)) / (1000 * 999)
    assert 0.30 < mean < 0.40


def test_rows_by_id_or_name_in_any_order():
    rows = read_embeddings()
    np.testing.assert_array_equal(imagenet_class_embeddings(["n03063599", "golden retriever"]), rows[[504, 207]])
    assert imagenet_class_embeddings(["n03063599", "quokka"]) is None
    assert imagenet_class_embeddings([]) is None


def test_a_set_of_imagenet_classes_needs_no_text_model(tmp_path, capsys):
    record = {"id": 0, "image": b"x", "label": 1}
    write_records(tmp_path, "two", {"train": [record]}, ["n02099601", "n03063599"])
    found = load_class_embeddings(tmp_path, open_records(tmp_path, "train"))
    np.testing.assert_array_equal(found, read_embeddings()[[207, 504]])
    assert "ImageNet" in capsys.readouterr().out
    np.save(tmp_path / "class_embeddings.npy", np.ones((2, 4), np.float16))  # its own come first
    assert load_class_embeddings(tmp_path, open_records(tmp_path, "train")).shape == (2, 4)
    about = {"text_encoder": {}, "class_names": ["n02099601", "n03063500"]}  # of a set that was there before
    (tmp_path / "class_embeddings.json").write_text(json.dumps(about))
    with pytest.raises(DataError, match=r"class 1 of .*n03063500.*'n03063599'.*what=classes"):
        load_class_embeddings(tmp_path, open_records(tmp_path, "train"))


def test_a_class_without_any_caption_is_named(tmp_path):
    encoder = {"name": "m", "revision": "r", "pooling": "mean", "dim": 2, "normalised": True, "template": "{caption}"}
    embedded = {"captions": ["x"], "caption_embeddings": np.ones((1, 2), np.float16)}
    records = [{"id": 0, "image": b"x", "label": 0} | embedded, {"id": 1, "image": b"x", "label": 0}]
    write_records(tmp_path / "a", "a", {"train": records}, ["ant", "bee", "cat"], text_encoder=encoder)
    found = load_class_embeddings(tmp_path / "a", open_records(tmp_path / "a", "train"))
    np.testing.assert_allclose(np.linalg.norm(found.astype(np.float32), axis=1), [1, 0, 0], atol=1e-3)
    records.append({"id": 2, "image": b"x", "label": 2})
    write_records(tmp_path / "b", "b", {"train": records}, ["ant", "bee", "cat"], text_encoder=encoder)
    with pytest.raises(DataError, match=r"captions of class 'cat'.*none.*what=classes"):
        load_class_embeddings(tmp_path / "b", open_records(tmp_path / "b", "train"))


def test_changed_files_are_refused_and_rebuilt(tmp_path):
    folder = tmp_path / "imagenet"
    shutil.copytree(FOLDER, folder)
    text = (folder / "classes.tsv").read_text()
    (folder / "classes.tsv").write_text("".join(text.splitlines(keepends=True)[:3]))
    with pytest.raises(DataError, match=r"classes\.tsv"):
        read_embeddings(folder)
    build(folder, JaxEncoder(str(write_model(tmp_path / "m", "bert"))))
    assert read_embeddings(folder).shape == (3, 16)

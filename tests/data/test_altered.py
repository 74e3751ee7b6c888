"""Fewer images, wrong labels, wrong captions: the share that was asked for, the same for one seed, nested."""

import collections
import types

import numpy as np
import pytest

from tests.data.record_sets import write_set
from xsample_jax.data import sources
from xsample_jax.data.perturb import apply_perturbations
from xsample_jax.data.records import open_records
from xsample_jax.data.writer import write_records
from xsample_jax.errors import DataError


def options(**changes):
    unchanged = {"samples_per_class": None, "fraction": 1.0, "label_noise": 0.0, "caption_noise": 0.0}
    return types.SimpleNamespace(**unchanged | changes)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set")
    write_set(folder, train=600)
    return open_records(folder, "train")


def labels(source):
    return np.array([source[i]["label"] for i in range(len(source))])


def test_nothing_asked_nothing_changed(source):
    assert apply_perturbations(source, options(), 0) is source


def test_a_fraction_is_drawn_by_the_seed_and_is_part_of_a_larger_one(source):
    everything = [source[i]["id"] for i in range(len(source))]

    def ids(fraction, seed):
        chosen = apply_perturbations(source, options(fraction=fraction), seed)
        return [chosen[i]["id"] for i in range(len(chosen))]

    small, large, other = ids(0.1, 0), ids(0.3, 0), ids(0.1, 1)
    assert (len(small), len(large), len(other)) == (60, 180, 60)
    assert set(small) < set(large) < set(everything)
    assert small == ids(0.1, 0)
    assert len(set(small) & set(other)) < 20  # 6 by chance
    assert 200 < np.mean([everything.index(number) for number in small]) < 400  # from the whole of the split
    assert len(ids(1e-6, 0)) == 1


def test_label_noise(source):
    clean = labels(source)
    noisy = labels(apply_perturbations(source, options(label_noise=0.3), 0))
    wrong = noisy != clean
    assert 0.24 < wrong.mean() < 0.36  # 3.3 standard deviations
    steps = collections.Counter((noisy - clean)[wrong] % 3)
    assert min(steps[1], steps[2]) > 0.35 * wrong.sum()  # each other class
    np.testing.assert_array_equal(noisy, labels(apply_perturbations(source, options(label_noise=0.3), 0)))
    assert (noisy != labels(apply_perturbations(source, options(label_noise=0.3), 1))).any()
    more = labels(apply_perturbations(source, options(label_noise=0.6), 0))
    np.testing.assert_array_equal(more[wrong], noisy[wrong])
    assert (labels(apply_perturbations(source, options(label_noise=1.0), 0)) != clean).all()


def test_wrong_labels_are_classes_that_the_split_has(tmp_path):
    splits = {
        "train": [{"id": i, "image": b"x", "label": (1, 4, 5)[i % 3]} for i in range(300)],
        "val": [{"id": 1000 + i, "image": b"x", "label": i} for i in range(7)],
    }
    write_records(tmp_path / "set", "set", splits, list("abcdefg"))
    source = open_records(tmp_path / "set", "train")
    noisy = labels(apply_perturbations(source, options(label_noise=1.0, samples_per_class=50), 0))
    clean = labels(apply_perturbations(source, options(samples_per_class=50), 0))
    assert set(noisy) == {1, 4, 5}
    assert (noisy != clean).all()


def test_a_class_that_a_fraction_has_none_of_is_no_wrong_label(tmp_path):
    """faults C: wrong labels were drawn among the classes of the whole split."""
    records = [{"id": i, "image": b"x", "label": i % 8} for i in range(40)]
    write_records(tmp_path / "set", "set", {"train": records}, list("abcdefgh"))
    whole = open_records(tmp_path / "set", "train")
    everything = apply_perturbations(whole, options(label_noise=1.0), 0)
    of_id = {record["id"]: record["label"] for record in everything}
    kept = 0
    for seed_fraction in (0.1, 0.15, 0.2):
        clean = apply_perturbations(whole, options(fraction=seed_fraction), 0)
        noisy = apply_perturbations(whole, options(fraction=seed_fraction, label_noise=1.0), 0)
        there = set(labels(clean))
        assert 1 < len(there) < 8
        assert set(labels(noisy)) <= there
        assert (labels(noisy) != labels(clean)).all()
        for record in noisy:  # noise is that of the whole split where its class is there
            assert of_id[record["id"]] not in there or record["label"] == of_id[record["id"]]
            kept += record["label"] == of_id[record["id"]]
    assert kept


def test_caption_noise_neither_takes_nor_gives_captions_where_there_are_few(tmp_path):
    """faults C: records took "no caption" from others, or got a first one, and a fraction changed which."""
    records = [
        {"id": i, "image": b"x", "label": 0, "captions": [f"caption {i}"] if i % 4 == 0 else []} for i in range(48)
    ]
    write_records(tmp_path / "set", "set", {"train": records}, ["a"])
    whole = open_records(tmp_path / "set", "train")
    noisy = apply_perturbations(whole, options(caption_noise=1.0), 0)
    for clean, record in zip(whole, noisy, strict=True):
        assert bool(clean["captions"]) == bool(record["captions"])
        assert not clean["captions"] or clean["captions"] != record["captions"]
    captions = {record["id"]: record["captions"] for record in noisy}
    part = apply_perturbations(whole, options(caption_noise=1.0, fraction=0.5), 0)
    assert all(record["captions"] == captions[record["id"]] for record in part)
    (tmp_path / "one").mkdir()
    write_records(tmp_path / "one" / "set", "set", {"train": records[:4]}, ["a"])
    with pytest.raises(DataError, match="so few captions"):
        apply_perturbations(open_records(tmp_path / "one" / "set", "train"), options(caption_noise=1.0), 0)[0]


def test_label_noise_leaves_unknown_labels_and_needs_classes(tmp_path):
    records = [{"id": i, "image": b"x", "label": max(i - 19, -1)} for i in range(21)]  # all but two have none
    write_records(tmp_path / "a", "a", {"train": records}, ["a", "b"])
    source = open_records(tmp_path / "a", "train")
    np.testing.assert_array_equal(labels(apply_perturbations(source, options(label_noise=1.0), 0)), [-1] * 19 + [1, 0])
    write_records(tmp_path / "b", "b", {"train": [{"id": 1, "image": b"x"}]})
    for noise in ("label_noise", "caption_noise"):
        with pytest.raises(DataError, match=f"data.{noise}.*0 for a set"):
            apply_perturbations(open_records(tmp_path / "b", "train"), options(**{noise: 0.5}), 0)
    with pytest.raises(DataError, match=r"samples_per_class.*without labels"):
        apply_perturbations(open_records(tmp_path / "b", "train"), options(samples_per_class=1), 0)


def test_caption_noise_takes_caption_and_embedding_of_one_other_record(source):
    noisy = apply_perturbations(source, options(caption_noise=0.4), 0)
    wrong = 0
    for i in range(len(source)):
        clean, record = source[i], noisy[i]
        assert all(record[name] == clean[name] for name in ("id", "image", "label", "attributes"))
        other = int(record["captions"][0].removeprefix("caption "))
        np.testing.assert_array_equal(record["caption_embeddings"], source[other]["caption_embeddings"])
        wrong += other != record["id"]
    assert 0.34 < wrong / len(source) < 0.46
    all_wrong = apply_perturbations(source, options(caption_noise=1.0), 0)
    assert all(all_wrong[i]["captions"] != source[i]["captions"] for i in range(len(source)))


def test_samples_per_class(source):
    few, more = (apply_perturbations(source, options(samples_per_class=count), 0) for count in (3, 7))
    assert len(few) == 9
    assert collections.Counter(labels(few)) == {0: 3, 1: 3, 2: 3}
    ids = [{part[i]["id"] for i in range(len(part))} for part in (few, more)]
    assert ids[0] < ids[1]
    assert few.locate(0) == source.locate(few._index(0))
    other = apply_perturbations(source, options(samples_per_class=3), 1)
    assert {other[i]["id"] for i in range(9)} != ids[0]
    assert len(apply_perturbations(source, options(samples_per_class=10_000), 0)) == len(source)


def test_all_at_once_and_independent(source):
    both = apply_perturbations(source, options(samples_per_class=100, label_noise=0.5, caption_noise=0.5), 0)
    assert len(both) == 300
    pairs = [(both[i]["label"] != both[i]["id"] % 3, both[i]["captions"][0] != f"caption {both[i]['id']}")
             for i in range(300)]  # fmt: skip
    share = np.mean([a and b for a, b in pairs])
    assert 0.17 < share < 0.33  # a quarter, if the choices have nothing to do with each other


def test_labels_that_are_kept_are_those_of_the_whole_split(tmp_path, monkeypatch):
    """faults A5, C3: a fraction had the labels of all images, or left its own few for all who come after."""
    monkeypatch.setattr(sources, "LONG", -1.0)
    write_set(tmp_path, train=60)
    few = apply_perturbations(open_records(tmp_path, "train"), options(fraction=0.5), 0)
    np.testing.assert_array_equal(sources.read_labels(few), labels(few))
    whole = open_records(tmp_path, "train")
    np.testing.assert_array_equal(sources.read_labels(whole), labels(whole))
    assert list(tmp_path.glob("labels-train-*.npy"))
    wrong = apply_perturbations(open_records(tmp_path, "train"), options(label_noise=0.5), 0)
    for source in (few, wrong):
        np.testing.assert_array_equal(sources.read_labels(source), labels(source))

"""Side information by record (data.side): files and attributes reach the right rows, and wrong ones are refused."""

import io
import os

import jax
import numpy as np
import pytest
from PIL import Image

from tests.objectives.synthetic import LinearEncoder
from tests.tiny import tiny_config
from xsample_jax import loop
from xsample_jax.data.dataset import open_dataset, train_batches
from xsample_jax.data.loader import draw_order
from xsample_jax.data.perturb import apply_perturbations
from xsample_jax.data.records import open_records
from xsample_jax.data.side import open_side, read_side, side_checksums, write_side
from xsample_jax.data.sources import Relabeled, open_training_source
from xsample_jax.data.writer import write_records
from xsample_jax.errors import CheckpointError, ConfigError, DataError, Problems, UserError
from xsample_jax.io.run_dir import read_history
from xsample_jax.models import towers
from xsample_jax.objectives.row_weights import WeightInputs, recorded
from xsample_jax.setup import build_run

ATTRIBUTES = {"age": ("18", "25.5", "40"), "color": ("red", "blue"), "count": ("one", "two", "three")}


def images(numbers):
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(buffer, "PNG")
    for number in numbers:
        values = {"age": number % 3, "color": number % 2, "count": (number // 2) % 3}
        yield {"id": 100 + number, "image": buffer.getvalue(), "label": number % 2, "attributes": values}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A set of 40 images to train on and 8 to test."""
    out = tmp_path_factory.mktemp("side") / "set"
    write_records(out, "set", {"train": images(range(40)), "test": images(range(40, 48))}, ["a", "b"], ATTRIBUTES)
    return out


@pytest.fixture(scope="module")
def clusters(folder):
    """A side file in which record i is in the clusters i and i // 4."""
    path = folder.parent / "clusters.npz"
    write_side(path, np.stack([np.arange(40), np.arange(40) // 4], axis=1), open_records(folder, "train"))
    return str(path)


def config_for(folder, *side, **changes):
    options = {"objective__preset": "simclr", "eval__suite": "none", "data__side": side, **changes}
    return tiny_config(data__source="records", data__path=str(folder), **options)


def of_file(path, name="cluster"):
    return {"name": name, "file": str(path)}


def of_attributes(name, *attributes):
    return {"name": name, "attributes": attributes}


def first_batches(examples, config, count=3, start=0, rows=None):
    iterator = train_batches(examples, config, start, rows)
    batches = [next(iterator) for _ in range(count)]
    iterator.close()
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


@pytest.mark.parametrize(
    "changes", [{}, {"data__fraction": 0.6}, {"data__samples_per_class": 12, "data__label_noise": 0.5}]
)
def test_rows_of_a_file_stay_with_their_records(folder, clusters, changes):
    """In any order, with any number of hosts, from any position, and where records are left out or changed."""
    preset = "supcon" if "data__label_noise" in changes else "simclr"
    config = config_for(folder, of_file(clusters), objective__preset=preset, **changes)
    examples = open_dataset(config, "train", frozenset({"cluster"}))
    examples.source = apply_perturbations(examples.source, config.data, config.seed)
    found = first_batches(examples, config)
    place = found["id"] - 100
    np.testing.assert_array_equal(found["cluster"], np.stack([place, place // 4], axis=1))
    assert found["cluster"].dtype == np.int32
    assert len(set(place.tolist())) > 16
    later = first_batches(examples, config, count=2, start=16, rows=range(5, 9))  # another host, after a resume
    np.testing.assert_array_equal(later["cluster"], found["cluster"].reshape(3, 16, 2)[1:, 5:9].reshape(8, 2))


def test_attributes_become_targets_labels_and_clusters(folder):
    side = [of_attributes("target", "age", "count"), of_attributes("labels", "color", "count")]
    side += [of_attributes("cluster", "color", "count"), of_attributes("group", "color")]
    config = config_for(folder, *side)
    found = first_batches(open_dataset(config, "train", frozenset(one["name"] for one in side)), config)
    number = found["id"] - 100
    color, count = number % 2, number // 2 % 3
    # Names that are numbers are those numbers; else the place of the name counts.
    np.testing.assert_allclose(found["target"], np.stack([np.array([18, 25.5, 40])[number % 3], count], axis=1))
    np.testing.assert_array_equal(found["labels"], np.concatenate([np.eye(2)[color], np.eye(3)[count]], axis=1))
    np.testing.assert_array_equal(found["cluster"], np.stack([color, count], axis=1))
    np.testing.assert_array_equal(found["group"], color)
    assert {name: found[name].dtype.kind for name in ("target", "labels", "cluster", "group")} == {
        "target": "f", "labels": "i", "cluster": "i", "group": "i",
    }  # fmt: skip


def test_an_attribute_without_a_value_is_none(tmp_path):
    """faults A7: "" was a value like others, and one of it made places in the alphabet of all numbers."""
    names = {"age": ("", "10", "100", "9"), "color": ("", "red", "blue")}
    values = [{"age": number % 4, "color": number % 3} for number in range(12)]
    records = ({**record, "attributes": of} for record, of in zip(images(range(12)), values, strict=True))
    write_records(tmp_path / "some", "some", {"train": records}, ["a", "b"], names)
    source = open_records(tmp_path / "some", "train")
    entries = [of_attributes("target", "age"), of_attributes("labels", "age", "color"), of_attributes("group", "color")]
    entries += [of_attributes("cluster", "age", "color"), of_attributes("is_target", "color")]
    read = open_side(entries, source, {one["name"] for one in entries})
    found = [{name: of(source[place], place) for name, of in read.items() if name != "target"} for place in range(12)]
    color, age = (np.array([of[name] for of in values]) - 1 for name in ("color", "age"))
    np.testing.assert_array_equal([one["group"] for one in found], color)
    np.testing.assert_array_equal([one["cluster"] for one in found], np.stack([age, color], axis=1))
    np.testing.assert_array_equal([one["is_target"] for one in found], np.minimum(color, 1))
    rows = [np.eye(count)[of] * (of >= 0)[:, None] for count, of in ((3, age), (2, color))]
    np.testing.assert_array_equal([one["labels"] for one in found], np.concatenate(rows, axis=1))
    assert [float(read["target"](source[place], place)[0]) for place in (1, 2, 3)] == [10.0, 100.0, 9.0]
    with pytest.raises(DataError, match=r"age of record .*, id 104 = '': expected a value"):
        read["target"](source[4], 4)
    by_color = Relabeled(source, "color")
    assert by_color.manifest.class_names == ("red", "blue")
    assert [by_color[place]["label"] for place in range(12)] == color.tolist()
    config = config_for(tmp_path / "some", data__hierarchy=("age", "color"))
    examples = open_dataset(config, "train", frozenset({"path", "attributes"}), source)
    assert [examples[place]["path"].tolist()[:2] for place in (0, 5)] == [[-1, -1], [1, 2]]
    assert int(examples[0]["attribute/age"]) == -1


def test_mixed_sets_have_the_attributes_that_all_have(folder, tmp_path):
    write_records(tmp_path / "b", "b", {"train": images(range(10))}, ["a", "b"], ATTRIBUTES)
    mix = ({"path": str(tmp_path / "b"), "share": 0.5},)
    config = config_for(folder, of_attributes("target", "age"), data__mix=mix)
    source, rates = open_training_source(config.data)
    examples = open_dataset(config, "train", frozenset({"target"}), source)
    examples.rates = rates
    found = first_batches(examples, config)
    number = np.where(found["id"] < 40, found["id"], found["id"] - 40)  # in a mixture the id is the place
    np.testing.assert_allclose(found["target"][:, 0], np.array([18, 25.5, 40])[number % 3])
    with pytest.raises(UserError, match=r"data\.side\[0\]\.file = 'c\.npz': expected no file with data\.mix"):
        config_for(folder, of_file("c.npz"), data__mix=mix)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"name": "cluster"}, r"data\.side\[0\] = {'name': 'cluster'}: expected {'name'"),
        ({"name": "cluster", "file": "a", "attributes": ("b",)}, r"data\.side\[0\] = .*expected"),
        ({"name": "clusters", "file": "a"}, r"data\.side\[0\]\.name = 'clusters'.*Did you mean cluster"),
        ({"name": "cluster", "file": ""}, r"data\.side\[0\]\.file = ''"),
        ({"name": "weight", "attributes": ("age",)}, r"attributes = \('age',\): expected a file for 'weight'"),
        ({"name": "target", "attributes": "age"}, r"expected a tuple of names"),
        ({"name": "group", "attributes": ("age", "color")}, r"expected one attribute for 'group'"),
        ({"name": {}, "file": "a"}, r"data\.side\[0\]\.name = {}: expected one of"),
    ],
)
def test_entries_without_meaning_are_errors_of_the_config(folder, entry, message):
    with pytest.raises(UserError, match=message):
        config_for(folder, entry)
    with pytest.raises(UserError, match="every entry once"):
        config_for(folder, of_file("a"), of_file("b"))


def test_a_generator_is_refused_where_its_images_would_lack_an_entry(folder):
    reads = {"objective__preset": "y_aware", "objective__generator__kind": "hard"}
    with pytest.raises(UserError, match=r"generator\.kind = 'hard': .*which reads target of every image"):
        config_for(folder, of_attributes("target", "age"), **reads)


def test_files_that_do_not_fit_the_records_are_refused(folder, clusters, tmp_path):
    source, test = (open_records(folder, split) for split in ("train", "test"))
    wrong = {
        ("shape", "cluster"): np.zeros(39, int),
        ("type float64", "cluster"): np.zeros(40),
        ("record 7.* = -2", "cluster"): np.where(np.arange(40) == 7, -2, 0),
        ("record 3.* = nan", "target"): np.where(np.arange(40) == 3, np.nan, 0.0),
        ("record 0.* = 2.*at most 1", "labels"): np.full((40, 3), 2),
        ("record 1.* = 0.*at least", "weight"): np.where(np.arange(40) == 1, 0.0, 1.0),
        ("record 2.* = 1e\\+300", "target"): np.where(np.arange(40) == 2, 1e300, 0.0),
        (r"shape \[40, 2\]", "group"): np.zeros((40, 2), int),
    }
    fine = {"split": "train", "fingerprint": source.manifest.fingerprint}
    for number, ((message, name), values) in enumerate(wrong.items()):
        np.savez(tmp_path / f"{number}.npz", values=values, **fine)
        with pytest.raises(ConfigError, match=message):
            read_side(str(tmp_path / f"{number}.npz"), name, source)
    np.savez(tmp_path / "ones.npz", values=np.ones(40, np.float16), **fine)
    assert read_side(str(tmp_path / "ones.npz"), "weight", source).dtype == np.float32
    with pytest.raises(ConfigError, match=r"split of side file .* = 'train': expected 'test'"):
        read_side(clusters, "cluster", test)
    np.savez(tmp_path / "other.npz", values=np.zeros(40, int), split="train", fingerprint="0" * 64)
    with pytest.raises(ConfigError, match="fingerprint of side file"):
        read_side(str(tmp_path / "other.npz"), "cluster", source)
    np.save(tmp_path / "plain.npy", np.zeros(40, int))
    with pytest.raises(ConfigError, match=r"expected a \.npz file with the arrays fingerprint, split, values"):
        read_side(str(tmp_path / "plain.npy"), "cluster", source)
    (tmp_path / "broken.npz").write_bytes(b"PK\3\4 nothing")
    with pytest.raises(DataError, match="a file that numpy wrote"):
        read_side(str(tmp_path / "broken.npz"), "cluster", source)
    with pytest.raises(ConfigError, match=r"values = 'shape \[39\]': expected \[40\]"):
        write_side(tmp_path / "short.npz", np.zeros(39), source)


def test_everything_that_is_wrong_is_said_at_once_before_training(folder, tmp_path):
    terms = ({"graph": "kernel", "negatives": "clusters_apart"},)
    side = (of_file(tmp_path / "none.npz"), of_attributes("target", "ages"))
    with pytest.raises(Problems, match=r"data\.side\[0\]\.file(.|\n)*existing file(.|\n)*Did you mean age"):
        build_run(config_for(folder, *side, objective__terms=terms))
    with pytest.raises(Problems, match=r"batch entry cluster(.|\n)*batch entry target"):
        build_run(config_for(folder, objective__terms=terms))
    build_run(config_for(folder, *side))  # nothing reads them


def test_a_run_reads_what_its_objective_asks_for(folder, clusters, monkeypatch):
    """Shapes of the batch, of the queue that keeps it, and of the step follow from the declaration."""
    terms = (
        {"graph": {"source": "kernel"}},
        {"graph": "labels", "keys": ("image", "queue"), "negatives": "clusters_apart"},
    )
    side = (of_attributes("target", "age"), of_attributes("labels", "color", "count"), of_file(clusters))
    monkeypatch.setitem(towers.ENCODERS, "resnet18", lambda config, rngs: LinearEncoder(rngs))
    config = config_for(folder, *side, objective__terms=terms, objective__queue=32)
    parts, examples = build_run(config)
    assert parts.abstract_batch["cluster"].shape == (16, 2)
    assert parts.abstract_batch["labels"].shape == (16, 5)
    assert parts.abstract_batch["target"].shape == (16, 1)
    batch = first_batches(examples, config, count=1)
    batch = {name: batch[name] for name in parts.abstract_batch}
    state, metrics = parts.train_step(parts.new_state(), jax.device_put(batch))
    assert np.isfinite(metrics["loss"])
    np.testing.assert_array_equal(state.memory["queue/cluster"][:16], batch["cluster"])


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_batches_of_one_group(folder, hosts):
    """Pure, equal for any number of hosts and after a resume, each record at most once in a pass, in another order."""
    groups = np.repeat([2, 0, 5, -1], [19, 10, 9, 2])[np.random.default_rng(0).permutation(40)]
    config = config_for(folder, batch_size=4)
    examples = open_dataset(config, "train", frozenset())
    examples.groups = groups
    parts = np.split(np.arange(4), hosts)
    batches = [first_batches(examples, config, count=16, rows=rows)["id"].reshape(16, -1) for rows in parts]
    found = np.concatenate(batches, axis=1) - 100
    np.testing.assert_array_equal(found, first_batches(examples, config, count=16)["id"].reshape(16, 4) - 100)
    of_batch = groups[found]
    assert (of_batch == of_batch[:, :1]).all()
    for one_pass in (found[:8], found[8:]):  # 4 + 2 + 2 batches
        names, counts = np.unique(groups[one_pass[:, 0]], return_counts=True)
        assert dict(zip(names.tolist(), counts.tolist(), strict=True)) == {0: 2, 2: 4, 5: 2}
        assert len(np.unique(one_pass)) == 32
    assert set(found[:8].ravel()) != set(found[8:].ravel())
    later = first_batches(examples, config, count=3, start=5 * 4, rows=parts[-1])["id"].reshape(3, -1) - 100
    np.testing.assert_array_equal(later, found[5:8, parts[-1]])
    # After batches of another size the next whole batch comes first.
    np.testing.assert_array_equal(first_batches(examples, config, count=1, start=18)["id"] - 100, found[5])


def test_groups_come_from_labels_clusters_and_attributes(folder, clusters, tmp_path):
    source = open_records(folder, "train")
    color = of_attributes("group", "color")
    for side, by in (((), "label"), ((color,), "group"), ((of_attributes("cluster", "color"),), "cluster")):
        _, examples = build_run(config_for(folder, *side, data__batches_of=by))
        np.testing.assert_array_equal(examples.groups, np.arange(40) % 2)
    write_side(tmp_path / "one.npz", np.arange(40) // 20, source)
    _, examples = build_run(config_for(folder, of_file(tmp_path / "one.npz"), data__batches_of="cluster"))
    np.testing.assert_array_equal(examples.groups, np.arange(40) // 20)
    assert build_run(config_for(folder, color))[1].groups is None
    with pytest.raises(ConfigError, match=r"batch_size = 16: expected at most 13, the records of group 1"):
        build_run(config_for(folder, of_attributes("group", "age"), data__batches_of="group"))
    with pytest.raises(ConfigError, match=r"expected one clustering in data\.side: it has 2"):
        build_run(config_for(folder, of_file(clusters), data__batches_of="cluster"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__batches_of": "cluster"}, "an entry 'cluster' in data.side"),
        (
            {"data__batches_of": "label", "data__balance": 0.5},
            r"data\.batches_of = 'label': expected none with data\.balance",
        ),
        ({"data__batches_of": "label", "data__fraction": 0.5}, r"none with data\.fraction"),
        ({"data__batches_of": "label", "data__on_error": "skip"}, r"data\.on_error = 'skip'"),
        (
            {"data__batches_of": "label", "data__label_noise": 0.5, "objective__preset": "supcon"},
            r"None with data\.label_noise",
        ),
        ({"data__side": ({"name": "weight", "file": "w"},), "data__batches_of": "label"}, "None with a weight"),
        (
            {"data__side": ({"name": "weight", "file": "w"},), "data__balance": 0.5},
            r"data\.side = 'weight': expected none",
        ),
    ],
)
def test_two_rules_of_what_is_drawn_are_refused(folder, changes, message):
    with pytest.raises(UserError, match=message):
        config_for(folder, **changes)


def test_weighted_draws_have_the_expectation_of_uniform_ones(folder, tmp_path):
    """Images are drawn with the rates, and the mean of values times their row weights is the mean of all images."""
    weights = np.random.default_rng(1).uniform(0.2, 5, 40)
    write_side(tmp_path / "weights.npz", weights, open_records(folder, "train"))
    config = config_for(folder, of_file(tmp_path / "weights.npz", "weight"), objective__preset="weighted_draws")
    _, examples = build_run(config)
    index = draw_order(40, config.seed, examples.rates)
    place = np.array([index(number) for number in range(6400)])
    found = first_batches(examples, config)
    np.testing.assert_array_equal(found["id"] - 100, place[:48])
    weight = (weights / weights.mean())[place]
    np.testing.assert_allclose(found["weight"], weight[:48], rtol=1e-6)
    share = np.bincount(place, minlength=40) / len(place)
    error = 0.5 / 160**0.5 / 40  # of 160 epochs, in each of which the part of a draw is a draw or none
    np.testing.assert_allclose(share, weights / weights.sum(), atol=4 * error)
    row_weight = np.asarray(recorded(WeightInputs(None, None, None, None, {"weight": weight}, 0.1, 0.0)))
    values = np.log(weights)  # a mean of the draws alone is far off
    drawn = row_weight * values[place]
    assert drawn.mean() == pytest.approx(values.mean(), abs=3 * drawn.std() / len(drawn) ** 0.5)
    assert np.mean(values[place]) > values.mean() + 0.2


def test_a_run_does_not_go_on_with_other_values_unasked(folder, tmp_path, monkeypatch):
    """The config names the file, not what is in it: a file with other values under the same name is another run."""
    monkeypatch.setitem(towers.ENCODERS, "resnet18", lambda config, rngs: LinearEncoder(rngs))
    monkeypatch.setattr(loop, "write_report", lambda runs, path: None)
    source, path, run = open_records(folder, "train"), tmp_path / "weight.npz", tmp_path / "run"
    write_side(path, 1.0 + np.arange(40) % 2, source)
    config = config_for(folder, of_file(path, "weight"), objective__preset="weighted_draws", steps=1)
    loop.train(config, run)
    (run / "evaluation.json").unlink()  # as if it had been stopped before its end
    loop.train(config, run)
    (run / "evaluation.json").unlink()
    write_side(path, 1.0 + np.arange(40) % 3, source)
    with pytest.raises(CheckpointError, match=r"data\.side = 'other files for weight'.*--allow_config_change"):
        loop.train(config, run)
    loop.train(config, run, allow_config_change=True)
    seen = [event["files"]["weight"] for event in read_history(run) if event["event"] == "side files"]
    assert len(seen) == len(set(seen)) == 2


@pytest.mark.parametrize("what", ["missing", "folder", "pipe", "device"])
def test_a_side_file_that_cannot_be_read_is_one_error(what, folder, tmp_path):
    """faults A1, C10: its checksum was a traceback, and a pipe or a device was waited for."""
    path = tmp_path / "side.npz"
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "device":
        path = "/dev/zero"
    entries = ({"name": "weight", "file": str(path)},)
    wanted = r"data\.side\[0\]\.file = .*: expected an? (existing )?file"
    with pytest.raises(ConfigError, match=wanted):
        side_checksums(entries)
    with pytest.raises((ConfigError, Problems), match=wanted):
        open_side(entries, open_records(folder, "train"), ("weight",))

"""A run is put together from its config, or refused before anything is trained."""

import io
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.tiny import tiny_config
from xsample_jax.data.captions import TOKENIZER
from xsample_jax.data.dataset import check_side_information
from xsample_jax.data.records import open_records
from xsample_jax.data.sources import EMOJI_FOLDER
from xsample_jax.data.splits import check_eval_splits
from xsample_jax.data.writer import write_records
from xsample_jax.errors import ConfigError, DataError, Problems
from xsample_jax.setup import build_run


def images(count, **values):
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(buffer, "PNG")
    return [{"id": number, "image": buffer.getvalue(), "label": number % 2, **values} for number in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A set of 20 images to train on and 8 to test."""
    out, made = tmp_path_factory.mktemp("two") / "set", images(28)
    write_records(out, "set", {"train": made[:20], "test": made[20:]}, ["a", "b"])
    return out


@pytest.mark.parametrize(
    ("changes", "field", "fix"),
    [
        ({"eval__split": "validation"}, "eval.split", "a split of the set: train, test"),
        ({"eval__split": "tets"}, "eval.split", "Did you mean test"),
        ({"eval__split": "test", "eval__train_split": "training"}, "eval.train_split", "Did you mean train"),
    ],
)
def test_an_evaluation_split_that_is_not_there_is_found_before_training(folder, changes, field, fix):
    options = {"data__source": "records", "data__path": str(folder), "objective__preset": "simclr"}
    options |= {"eval__suite": "probe", "eval__train_split": "train"}
    with pytest.raises(ConfigError, match=fix) as caught:
        build_run(tiny_config(**options | changes))
    assert caught.value.field == field
    with pytest.raises(Problems, match=r"1\. eval\.split(.|\n)*2\. eval\.train_split"):
        build_run(tiny_config(**options | {"eval__split": "tets", "eval__train_split": "trian"}))
    build_run(tiny_config(**options | changes | {"eval__suite": "none"}))
    build_run(tiny_config(**options | {"eval__split": "test"}))


def config_for(folder, **changes):
    options = {"objective__preset": "simclr", "eval__suite": "none", "eval__split": "test"}
    return tiny_config(data__source="records", data__path=str(folder), **options | changes)


def test_an_empty_split_is_found_before_training(tmp_path):
    write_records(tmp_path / "a", "a", {"train": images(20), "test": []}, ["a", "b"])
    with pytest.raises(DataError, match="split test = 0: expected at least one record"):
        build_run(config_for(tmp_path / "a", eval__suite="probe"))
    build_run(config_for(tmp_path / "a"))
    write_records(tmp_path / "b", "b", {"train": []}, ["a", "b"])
    with pytest.raises(DataError, match=r"split train = 0: expected at least one record.*/b again"):
        build_run(config_for(tmp_path / "b"))
    with pytest.raises(DataError, match=r"split train = 0: expected at least one record.*/b again"):
        build_run(config_for(tmp_path / "a", data__mix=({"path": str(tmp_path / "b"), "share": 0.5},)))


@pytest.mark.parametrize(
    ("suite", "values", "problem"),
    [("probe", {"label": -1}, "labels of split test = 'none'"), ("shapes", {}, "attributes of split test = 'none'")],
)
def test_nothing_that_the_evaluation_could_predict_is_found_before_training(tmp_path, suite, values, problem):
    made = images(28)
    splits = {"train": made[:20], "test": [record | values for record in made[20:]]}
    write_records(tmp_path / "set", "set", splits)
    with pytest.raises((DataError, Problems), match=problem):
        build_run(config_for(tmp_path / "set", eval__suite=suite))
    other = {"path": str(tmp_path / "set"), "share": 0.5}
    with pytest.raises((DataError, Problems), match=problem):  # of mixed sets, evaluations open the first
        build_run(config_for(tmp_path / "set", eval__suite=suite, data__mix=(other,)))


def test_labels_of_some_are_enough_to_predict(tmp_path):
    made = images(28, label=-1)
    made[18]["label"] = made[19]["label"] = made[27]["label"] = 3
    write_records(tmp_path / "set", "set", {"train": made[:20], "test": made[20:]})
    build_run(config_for(tmp_path / "set", eval__suite="probe"))


@pytest.mark.parametrize(
    ("train", "test", "problem"),
    [
        ([-1] * 19 + [3], [3] * 8, "labeled records of split train = 1"),
        ([0, 1] * 10, [2, 3] * 4, "classes of split test = '2 others'"),
        ([0, 1] * 10, [-1] * 8, "labels of split test = 'none'"),
    ],
)
def test_labels_that_no_probe_could_use_are_found_before_training(tmp_path, train, test, problem):
    """faults C9: one labeled row, no class in common, and a named set whose evaluation split has no labels."""
    made = [record | {"label": label} for record, label in zip(images(28), [*train, *test], strict=True)]
    write_records(tmp_path / "set", "set", {"train": made[:20], "test": made[20:]}, ["a", "b", "c", "d"])
    with pytest.raises((DataError, Problems), match=problem):
        build_run(config_for(tmp_path / "set", eval__suite="probe"))


def test_the_concepts_of_the_emoji_are_no_classes_to_probe():
    """faults C9: eval.suite=probe on the emoji, whose test concepts are new, was an error at the end of the run."""
    config = tiny_config(eval__suite="probe")
    with pytest.raises(DataError, match=r"classes of split test.*--config\.data\.label=group"):
        check_eval_splits(config)
    check_eval_splits(tiny_config(eval__suite="probe", data__label="group"))


def test_an_attribute_that_is_the_class_is_what_the_evaluation_predicts(tmp_path):
    """With data.label a set needs no labels, and its splits may share no class of their own."""
    made = [record | {"label": -1, "attributes": {"color": number % 2}} for number, record in enumerate(images(28))]
    options = {"eval__suite": "probe", "data__label": "color"}
    colors = {"color": ["red", "blue"]}
    write_records(tmp_path / "set", "set", {"train": made[:20], "test": made[20:]}, attributes=colors)
    build_run(config_for(tmp_path / "set", **options))
    for record in made[20:]:
        record["attributes"] = {"color": 1}
    for record in made[:20]:
        record["attributes"] = {"color": 0}
    write_records(tmp_path / "apart", "apart", {"train": made[:20], "test": made[20:]}, attributes=colors)
    with pytest.raises((DataError, Problems), match="classes of split test = '1 others'"):
        build_run(config_for(tmp_path / "apart", **options))


def test_captions_after_the_first_records_count(tmp_path):
    """faults C9: whether a set has captions is not told by its first records alone."""
    made = images(100)
    for record in made[:80]:
        record["captions"] = []
    for record in made[80:]:
        record["captions"] = ["a square"]
    write_records(tmp_path / "set", "set", {"train": made})
    check_side_information(frozenset({"caption_tokens"}), open_records(tmp_path / "set", "train"))


def test_the_first_record_may_be_broken_or_lack_a_caption(tmp_path):
    """data.on_error=skip goes for it as for all others."""
    broken, *rest = images(20, captions=["a square"])
    folder = tmp_path / "broken"
    write_records(folder, "a", {"train": [broken | {"image": b"no image"}, *rest]}, ["a", "b"], options="group_size:1")
    (shard,) = folder.glob("*.arrayrecord")
    data = bytearray(shard.read_bytes())
    data[data.find(b"no image")] ^= 1  # its checksum is wrong: the record cannot be read
    shard.write_bytes(data)
    options = {
        "data__on_error": "skip",
        "data__caption_noise": 0.5,
        "objective__preset": "clip",
        "model__text__layers": 1,
    }
    shutil.copy(EMOJI_FOLDER / TOKENIZER, folder)
    with pytest.raises(DataError):
        open_records(folder, "train")[0]
    build_run(config_for(folder, **options))
    with pytest.raises(DataError, match=r"record .*:0"):
        build_run(config_for(folder, **options | {"data__on_error": "raise"}))
    write_records(tmp_path / "without", "a", {"train": [broken | {"captions": []}, *rest]}, ["a", "b"])
    shutil.copy(EMOJI_FOLDER / TOKENIZER, tmp_path / "without")
    build_run(config_for(tmp_path / "without", **options))
    nothing = [record | {"captions": []} for record in rest]
    write_records(tmp_path / "nothing", "a", {"train": nothing}, ["a", "b"])
    with pytest.raises(DataError, match="batch entry caption_tokens = None"):
        build_run(config_for(tmp_path / "nothing", **options))

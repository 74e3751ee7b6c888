"""A run is put together from its config, or refused before anything is trained."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.tiny import tiny_config
from xsample_jax.assemble import assemble
from xsample_jax.data.record_writer import write_records
from xsample_jax.errors import ConfigError, Problems


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A set of 20 pictures to train on and 8 to test."""
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(buffer, "PNG")
    pictures = [{"id": number, "image": buffer.getvalue(), "label": number % 2} for number in range(28)]
    out = tmp_path_factory.mktemp("two") / "set"
    write_records(out, "set", {"train": pictures[:20], "test": pictures[20:]}, ["a", "b"])
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
        assemble(tiny_config(**options | changes))
    assert caught.value.field == field
    with pytest.raises(Problems, match=r"1\. eval\.split(.|\n)*2\. eval\.train_split"):
        assemble(tiny_config(**options | {"eval__split": "tets", "eval__train_split": "trian"}))
    assemble(tiny_config(**options | changes | {"eval__suite": "none"}))
    assemble(tiny_config(**options | {"eval__split": "test"}))


def test_batches_that_may_hold_a_record_twice(folder):
    options = {"data__source": "records", "data__path": str(folder), "objective__preset": "simclr"}
    options |= {"eval__suite": "none"}
    repeats = [
        assemble(tiny_config(**options, **changes))[0].repeats
        for changes in ({"batch_size": 16}, {"batch_size": 24}, {"batch_size": 16, "data__balance": 1.0})
    ]
    assert repeats == [False, True, True]

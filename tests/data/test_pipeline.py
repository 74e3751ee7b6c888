"""The host pipeline: a fixed order, shards that join to the global batch, broken records named."""

import numpy as np
import pytest

from tests.tiny import tiny_config
from xsample_jax.assemble import open_examples
from xsample_jax.data.pipeline import eval_batches, train_batches
from xsample_jax.errors import DataError


@pytest.fixture(scope="module")
def examples():
    return open_examples(tiny_config(), "val", frozenset({"caption_embedding"}))


def ids(examples, batches, start=0, process=0, processes=1, **changes):
    iterator = train_batches(examples, tiny_config(**changes), start, process, processes)
    found = [next(iterator)["id"] for _ in range(batches)]
    iterator.close()
    return np.concatenate(found)


def test_one_pass_sees_every_image_once_and_the_next_in_another_order(examples):
    count = len(examples)
    stream = ids(examples, 2 * count // 16 + 1)
    first, second = stream[:count], stream[count : 2 * count]
    assert sorted(first) == sorted(second) == sorted(examples.source[i]["id"] for i in range(count))
    assert (first != second).mean() > 0.9
    assert (ids(examples, 2, seed=1) != stream[:32]).any()


def test_position_is_one_integer_for_any_number_of_hosts(examples):
    stream = ids(examples, 6).reshape(6, 16)
    np.testing.assert_array_equal(ids(examples, 3, start=3 * 16).reshape(3, 16), stream[3:])
    halves = [ids(examples, 3, start=3 * 16, process=k, processes=2).reshape(3, 8) for k in range(2)]
    assert [sorted(np.concatenate([a, b])) for a, b in zip(*halves, strict=True)] == [sorted(row) for row in stream[3:]]


def test_batches_have_the_contract_shapes(examples):
    iterator = train_batches(examples, tiny_config(), 0)
    batch = next(iterator)
    iterator.close()
    assert batch["image"].shape == (16, 32, 32, 4)
    assert batch["image"].dtype == np.uint8
    assert batch["id"].dtype == batch["label"].dtype == np.int32
    assert batch["caption_embedding"].dtype == np.float16
    np.testing.assert_allclose(np.linalg.norm(batch["caption_embedding"].astype(np.float32), axis=1), 1, atol=2e-3)


@pytest.mark.parametrize("processes", [1, 2])
def test_evaluation_counts_every_example_once(examples, processes):
    seen = []
    for process in range(processes):
        batches = list(eval_batches(examples, 50, threads=2, process=process, processes=processes))
        assert len(batches) == -(-len(examples) // 50)
        assert all(len(batch["id"]) == 50 // processes for batch in batches)
        seen += [batch["id"][batch["mask"]] for batch in batches]
    assert sorted(np.concatenate(seen)) == sorted(examples.source[i]["id"] for i in range(len(examples)))


class Broken:
    """A source whose record 3 has an image that is no image."""

    channels = 4

    def __init__(self, source):
        self._source = source

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return self._source[index] | ({"image": b"no image"} if index == 3 else {})

    def locate(self, index):
        return f"shard-7:{index}"


def test_a_broken_record_is_named_or_skipped_and_counted():
    fine = open_examples(tiny_config(), "val", frozenset())
    good = fine.source[4]["id"]
    broken_id = fine.source[3]["id"]
    fine.source = Broken(fine.source)
    with pytest.raises(DataError, match=f"shard-7:3, id {broken_id}.*on_error"):
        fine[3]
    fine.on_error = "skip"
    assert fine[3]["id"] == good
    assert fine.skipped == 1


def test_what_the_set_lacks_is_said(examples):
    with pytest.raises(DataError, match="caption"):
        open_examples(tiny_config(data__caption="3"), "val", frozenset({"caption_embedding"}))[0]

"""The host pipeline: a fixed order, shares that join to the global batch, broken records named."""

import io
import time

import numpy as np
import pytest
from PIL import Image

from tests.tiny import tiny_config
from xsample_jax.data import dataset as pipeline
from xsample_jax.data.dataset import eval_batches, open_dataset, train_batches
from xsample_jax.data.loader import draw_order, scrambled
from xsample_jax.data.writer import write_records
from xsample_jax.errors import ConfigError, DataError, RunError
from xsample_jax.setup import build_run


@pytest.fixture(scope="module")
def examples():
    return open_dataset(tiny_config(), "val", frozenset({"caption_embedding"}))


def ids(examples, batches, start=0, rows=None, **changes):
    iterator = train_batches(examples, tiny_config(**changes), start, rows)
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
    for rows in (
        [*range(8)],
        [*range(8, 16)],
        [0, 1, 6, 7, 15],
    ):  # of two hosts, and of one with devices here and there
        np.testing.assert_array_equal(
            ids(examples, 3, start=3 * 16, rows=rows).reshape(3, len(rows)), stream[3:][:, rows]
        )


class Counting:
    """Examples that note what is read of them."""

    rates = groups = plan = None

    def __init__(self, examples):
        self.examples, self.read = examples, []

    def __len__(self):
        return len(self.examples)

    @property
    def image_shape(self):
        return self.examples.image_shape

    def drawn(self, index, draw, image):
        self.read.append(index)
        return self.examples.drawn(index, draw, image)


def test_a_process_reads_only_its_rows_and_no_more_than_the_prefetch(examples):
    """Guards against a buffer that counts batches where it should count examples: 33 batches were read ahead."""
    source, rows = Counting(examples), [3, 4, 5, 6]
    iterator = train_batches(source, tiny_config(data__prefetch=2), 0, rows)
    first = next(iterator)["id"]
    time.sleep(0.5)  # let the threads run as far as they may
    assert len(source.read) <= 4 * (1 + 2) + 2
    iterator.close()
    stream = ids(examples, 4).reshape(4, 16)
    np.testing.assert_array_equal(first, stream[0][rows])
    assert {examples.source[index]["id"] for index in source.read} <= set(stream[:, rows].ravel().tolist())


def test_a_random_caption_is_a_function_of_the_seed_and_the_place():
    config = tiny_config(data__caption="random")
    examples = open_dataset(config, "val", frozenset({"caption_embedding"}))
    several = {r["id"]: r["caption_embeddings"] for r in map(examples.source.__getitem__, range(len(examples)))}

    def choices(start=0, **changes):
        iterator = train_batches(examples, tiny_config(data__caption="random", **changes), start)
        found = []
        for _ in range(20):
            batch = next(iterator)
            for number, row in zip(batch["id"], batch["caption_embedding"]):
                near = several[int(number)].astype(np.float32) @ row.astype(np.float32)
                assert near.max() > 0.99
                found.append(int(near.argmax()))
        iterator.close()
        return np.array(found)

    first = choices()
    assert 0.35 < first.mean() < 0.65  # the set has two captions an image
    np.testing.assert_array_equal(choices(start=160)[:160], first[160:])
    assert (choices(start=len(examples) // 16 * 16) != first).any()
    assert (choices(seed=1) != first).any()
    evaluated = next(eval_batches(examples, 16, 2))
    exact = open_dataset(tiny_config(), "val", frozenset({"caption_embedding"}))
    np.testing.assert_array_equal(evaluated["caption_embedding"][0], exact[0]["caption_embedding"])


def test_kept_images_are_decoded_once_and_are_the_same(monkeypatch):
    count, decode = [], pipeline.decode_image
    monkeypatch.setattr(pipeline, "decode_image", lambda *args, **out: count.append(1) or decode(*args, **out))
    for cache, decodings in (("none", 3), ("decoded", 1)):
        config = tiny_config(data__cache=cache, data__split="val")
        _, examples = build_run(config)
        count.clear()
        for _ in range(2):
            images = [examples[index]["image"] for index in (5, 6, 5)]
            np.testing.assert_array_equal(images[0], images[2])
            assert images[0].shape == (32, 32, 4)
            assert (images[0] != images[1]).any()
        assert len(count) == 2 * decodings, cache
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": 2 * len(examples) * 32 * 32 * 4 - 1}.get)
    with pytest.raises(ConfigError, match=r"data\.cache.*decoded, for .*half of the"):
        build_run(config)


@pytest.mark.parametrize(("rows", "prefetch", "threads"), [(16, 1, 16), (48, 2, 4), (7, 3, 2), (512, 4, 4)])
def test_batches_are_the_same_however_they_are_read(examples, rows, prefetch, threads):
    changes = {"batch_size": rows, "data__prefetch": prefetch, "data__threads": threads}
    config = tiny_config(**changes)
    iterator = train_batches(examples, config, 0)
    index = draw_order(len(examples), config.seed, None)
    for number in range(3):
        batch = next(iterator)
        alone = [examples[index(place)] for place in range(number * rows, (number + 1) * rows)]
        for name in batch:
            np.testing.assert_array_equal(batch[name], [example[name] for example in alone])
    iterator.close()


def test_batches_have_the_contract_shapes(examples):
    iterator = train_batches(examples, tiny_config(), 0)
    batch = next(iterator)
    iterator.close()
    assert batch["image"].shape == (16, 32, 32, 4)
    assert batch["image"].dtype == np.uint8
    assert batch["id"].dtype == batch["label"].dtype == np.int32
    assert batch["caption_embedding"].dtype == np.float16
    np.testing.assert_allclose(np.linalg.norm(batch["caption_embedding"].astype(np.float32), axis=1), 1, atol=2e-3)


@pytest.mark.parametrize("shares", [[range(50)], [range(25), range(25, 50)], [[*range(0, 50, 2)], [*range(1, 50, 2)]]])
def test_evaluation_counts_every_example_once(examples, shares):
    seen = []
    for rows in shares:
        batches = list(eval_batches(examples, 50, threads=2, rows=rows))
        assert len(batches) == -(-len(examples) // 50)
        assert all(len(batch["id"]) == len(rows) for batch in batches)
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
    fine = open_dataset(tiny_config(), "val", frozenset())
    broken_id = fine.source[3]["id"]
    fine.source = Broken(fine.source)
    with pytest.raises(DataError, match=f"shard-7:3, id {broken_id}.*on_error"):
        fine[3]
    fine.on_error = "skip"
    assert fine[3]["id"] == fine[3]["id"] != broken_id
    assert fine.skipped == 1  # a record, however often it is drawn


def test_a_damaged_shard_is_replaced_by_records_of_the_whole_set():
    """faults C7: the next good record would get the draws of all broken ones before it."""
    fine = open_dataset(tiny_config(), "train", frozenset())
    count, broken = 300, set(range(100, 200))
    fine.source = [fine.source[index] | {"id": index} for index in range(count)]

    def example(index, draw, image):
        if index in broken:
            raise DataError("record", index, "a readable record")
        return {"id": index}

    fine._example, fine.on_error = example, "skip"
    drawn = [fine.drawn(index, scrambled(0, index), None)["id"] for index in range(count)]
    again = [fine.drawn(index, scrambled(0, index), None)["id"] for index in range(count)]
    assert drawn == again
    assert not broken & set(drawn)
    assert max(np.bincount(drawn)) <= 6
    assert fine.skipped == 100


def test_a_set_in_which_nothing_can_be_read_says_why(monkeypatch, caplog):
    fine = open_dataset(tiny_config(), "val", frozenset())
    monkeypatch.setattr(pipeline, "MOST_TRIES", 30)
    monkeypatch.setattr(pipeline, "MAX_REPORTED", 5)

    def example(index, draw, image):
        raise DataError("image", "no image", "an image")

    fine._example, fine.on_error = example, "skip"
    with pytest.raises(
        DataError, match=r"a record that can be read among 30 drawn at random.*The last one: .*no image"
    ):
        fine[3]
    assert 5 < fine.skipped <= 30
    assert len(caplog.records) == 5 + fine.skipped // 5 - 1  # the first ones, and every fifth


def test_records_that_cannot_be_read_for_now_are_not_skipped(tmp_path, monkeypatch):
    """faults C13: a mount that went away says nothing against the records, and the run is not to go without them."""
    fine = open_dataset(tiny_config(), "val", frozenset())
    fine.on_error = "skip"
    source = fine.source
    source._memory.clear()

    def gone(number):
        raise RuntimeError("reading failed")

    monkeypatch.setattr(source, "_reader", gone)
    with pytest.raises(DataError, match="damaged"):
        source[0]
    monkeypatch.setattr(source, "folder", tmp_path / "unmounted")
    with pytest.raises(RunError, match="No such file or directory"):
        fine[0]

    def full(number):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(source, "_reader", full)
    with pytest.raises(RunError, match="Too many open files"):
        fine[0]


def test_an_evaluation_goes_without_what_is_broken():
    fine = open_dataset(tiny_config(), "val", frozenset())
    names = [fine.source[index]["id"] for index in range(len(fine))]
    fine.source, fine.on_error = Broken(fine.source), "skip"
    batches = list(eval_batches(fine, 50, threads=2))
    joined = {name: np.concatenate([batch[name] for batch in batches]) for name in ("index", "id", "mask")}
    kept = [index for index in range(len(fine)) if index != 3]
    np.testing.assert_array_equal(joined["index"][joined["mask"]], kept)
    np.testing.assert_array_equal(joined["id"][joined["mask"]], [names[index] for index in kept])


def test_what_the_set_lacks_is_said(examples):
    with pytest.raises(DataError, match="caption"):
        open_dataset(tiny_config(data__caption="3"), "val", frozenset({"caption_embedding"}))[0]


def test_a_flipped_bit_in_a_shard_ends_the_batches_or_is_skipped(tmp_path):
    """From the file to the batches: the very record is named, or the next good one takes its place."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).save(buffer, "PNG")
    image = buffer.getvalue()
    record = {"image": image, "label": 0, "captions": [], "caption_embeddings": None, "attributes": {}}
    write_records(tmp_path, "set", {"train": [record | {"id": i} for i in range(16)]}, ["a"])
    (shard,) = tmp_path.glob("*.arrayrecord")
    data = bytearray(shard.read_bytes())
    places = [i for i in range(len(data)) if data.startswith(image, i)]
    data[places[5] + 100] ^= 1  # in the sixth image
    shard.write_bytes(data)

    def batches(on_error):
        config = tiny_config(
            data__source="records", data__path=str(tmp_path), data__on_error=on_error, eval__suite="none"
        )
        examples = open_dataset(config, "train", frozenset())
        iterator = train_batches(examples, config, 0)
        return examples, iterator

    examples, iterator = batches("skip")
    seen = next(iterator)["id"]
    assert set(seen) == set(range(16)) - {5}
    assert len(seen) == 16  # another record, drawn at random, takes the place of the broken one
    assert examples.skipped >= 1
    iterator.close()
    _, iterator = batches("raise")
    with pytest.raises(DataError, match=r"train-00000-of-00001\.arrayrecord:5.*verify_records"):
        next(iterator)
    iterator.close()

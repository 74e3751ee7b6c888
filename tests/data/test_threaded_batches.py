"""Batches by threads: order, fullness, and images that are written once, where they stay."""

import threading
import time

import numpy as np
import pytest

from xsample_jax.data.loader import threaded_batches

SHAPE = (2, 3, 3)


def pixels_of(number):
    return np.full(SHAPE, number % 251, np.uint8)


@pytest.mark.parametrize("threads", [1, 3, 16])
@pytest.mark.parametrize(("count", "batch_size"), [(96, 32), (100, 32), (35, 7), (5, 8), (256, 256), (251, 83)])
def test_full_batches_in_order_though_examples_take_odd_times(count, batch_size, threads):
    def read(number, image):
        time.sleep(0.002 * (number % 5 == 0))
        image[:] = pixels_of(number)
        return {"id": np.int32(number), "row": np.arange(4) + number}

    batches = list(threaded_batches(read, count, batch_size, SHAPE, threads, ahead=2))
    assert len(batches) == count // batch_size
    for place, batch in enumerate(batches):
        wanted = range(place * batch_size, (place + 1) * batch_size)
        np.testing.assert_array_equal(batch["id"], wanted)
        np.testing.assert_array_equal(batch["row"], [np.arange(4) + number for number in wanted])
        np.testing.assert_array_equal(batch["image"], [pixels_of(number) for number in wanted])
        assert batch.keys() == {"id", "row", "image"}


def test_an_image_is_written_where_it_stays():
    places = {}

    def read(number, image):
        image[:] = pixels_of(number)
        places[number] = image
        return {"id": np.int32(number)}

    batches = list(threaded_batches(read, 64, 16, SHAPE, 4, ahead=2))
    for number, place in places.items():
        assert np.shares_memory(batches[number // 16]["image"][number % 16], place)
    assert not np.shares_memory(batches[0]["image"], batches[1]["image"])


def test_several_threads_read_and_not_beyond_what_was_asked():
    seen, names = [], set()

    def read(number, image):
        seen.append(number)
        names.add(threading.get_ident())
        time.sleep(0.001)
        return {"id": np.int32(number)}

    iterator = threaded_batches(read, 10**12, 8, SHAPE, 4, ahead=3)
    next(iterator)
    time.sleep(0.3)
    iterator.close()
    assert len(names) == 4
    assert 8 * 3 <= len(seen) <= 8 * (3 + 2)


@pytest.mark.parametrize("batch_size", [64, 65, 67])
def test_threads_take_many_at_a_time_whatever_the_batch(batch_size):
    """A piece that has to divide the batch is one of 1 example in batches of 67."""
    turns = []

    def read(number, image):
        turns.append((threading.get_ident(), number))
        return {"id": np.int32(number)}

    list(threaded_batches(read, 8 * batch_size, batch_size, SHAPE, 2, ahead=2))
    of_thread = {}
    for thread, number in turns:
        of_thread.setdefault(thread, []).append(number)
    breaks = sum(np.count_nonzero(np.diff(numbers) != 1) + 1 for numbers in of_thread.values())
    assert breaks <= 8 * 3


def test_an_error_of_an_example_is_that_of_its_batch():
    def read(number, image):
        if number == 11:
            raise ValueError("number 11")
        image[:] = pixels_of(number)
        return {"id": np.int32(number)}

    iterator = threaded_batches(read, 64, 8, SHAPE, 2, ahead=1)
    np.testing.assert_array_equal(next(iterator)["id"], range(8))
    with pytest.raises(ValueError, match="number 11"):
        next(iterator)

"""Which record stands at which place: every one once in an epoch, or as often as its rate says."""

import concurrent.futures

import numpy as np
import pytest

from xsample_jax.data.loader import Rates, draw_order, record_rates


def epochs(index, count, number):
    return np.array([[index(epoch * count + place) for place in range(count)] for epoch in range(number)])


def test_without_rates_every_record_once_in_every_epoch_in_another_order():
    found = epochs(draw_order(50, seed=3), 50, 3)
    assert (np.sort(found, axis=1) == np.arange(50)).all()
    assert not (found[0] == found[1]).all()
    np.testing.assert_array_equal(found, epochs(draw_order(50, seed=3), 50, 3))
    assert not (found == epochs(draw_order(50, seed=4), 50, 3)).all()


def test_records_are_drawn_as_often_as_their_rates_say():
    rates = np.array([4.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.5] * 10)  # grain takes long for each place of a tiny set
    found = epochs(draw_order(80, 0, Rates(rates, np.zeros(80, int))), 80, 40)
    counts = np.stack([np.bincount(epoch, minlength=80) for epoch in found])
    expected = rates / rates.sum() * 80  # 4, 1, 1, 0.5, ...
    assert (counts >= np.floor(expected)).all()
    assert (counts <= np.ceil(expected)).all()
    of_kind = counts.reshape(-1, 8).mean(axis=0)
    np.testing.assert_allclose(of_kind, expected[:8], atol=0.1)  # 4 standard deviations
    first = found[:, :10]  # and in any order
    assert np.mean(first % 8 == 0) == pytest.approx(0.5, abs=0.1)


def test_shares_of_sets():
    rates = record_rates([30, 10], [0.25, 0.75], None, 0.0)
    assert rates.each[:30].sum() == pytest.approx(0.25)
    assert rates.each[30:].sum() == pytest.approx(0.75)
    found = epochs(draw_order(40, 0, rates), 40, 20)
    assert set(np.unique((found < 30).sum(axis=1))) <= {10}  # exactly a quarter of every epoch
    assert record_rates([30], [], None, 0.0) is None


def test_classes_are_balanced_within_each_set_of_a_mixture():
    """10 cats and 90 dogs beside 100 cats: cats are half of the first set's draws, whatever the second has."""
    labels = np.array([0] * 10 + [1] * 90 + [0] * 100)
    rates = record_rates([100, 100], [0.8, 0.2], labels, 1.0)
    total = rates.each.sum()
    assert rates.each[:10].sum() / total == pytest.approx(0.4)
    assert rates.each[10:100].sum() / total == pytest.approx(0.4)
    assert rates.each[100:].sum() / total == pytest.approx(0.2)
    assert [len(set(rates.group[part])) for part in (slice(10), slice(10, 100), slice(100, 200))] == [1, 1, 1]
    assert len(set(rates.group)) == 3


def test_what_takes_turns_in_a_set_is_drawn_evenly():
    """Classes 0, 1, 2, 3, 0, 1, ...: a quarter of the draws, in steps through the set, would meet one of the four."""
    labels = np.arange(800) % 4
    found = epochs(draw_order(1000, 5, record_rates([200, 800], [0.75, 0.25], None, 0.0)), 1000, 8)
    for epoch in found:
        mixed = epoch[epoch >= 200] - 200
        assert len(mixed) == 250
        assert np.ptp(np.bincount(labels[mixed], minlength=4)) < 40  # 4 standard deviations of a random choice
    assert len({tuple(sorted(epoch[epoch >= 200])) for epoch in found}) == 8  # no choice comes back


def test_threads_in_many_epochs_at_once():
    """A small set goes by faster than its batches are read."""
    index = draw_order(8, 2, record_rates([4, 4], [0.5, 0.5], None, 0.0))
    places = np.random.default_rng(0).permutation(200)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = dict(zip(places.tolist(), pool.map(index, places.tolist()), strict=True))
    assert found == {place: index(place) for place in range(200)}


@pytest.mark.parametrize("balance", [0.5, 1.0])
def test_classes_are_drawn_as_their_rates_say_in_every_epoch(balance):
    labels = np.tile([0, 0, 0, 1, 0, 2, 0, 0], 40)
    wanted = np.bincount(labels) ** (1 - balance)
    wanted = wanted / wanted.sum() * len(labels)
    for epoch in epochs(draw_order(320, 1, record_rates([320], [], labels, balance)), 320, 5):
        assert (np.abs(np.bincount(labels[epoch]) - wanted) < 1 + 1e-9).all()


@pytest.mark.parametrize(("balance", "expected"), [(1.0, [1, 1, 1]), (0.5, [2, 4, 8])])
def test_balance_between_classes(balance, expected):
    labels = np.repeat([7, 2, 5], [4, 16, 64])
    rates = record_rates([84], [], labels, balance)
    of_class = np.array([rates.each[labels == label].sum() for label in (7, 2, 5)])
    np.testing.assert_allclose(of_class / of_class[0], np.array(expected) / expected[0])


def test_images_without_a_class_count_as_classes_of_one_image():
    rates = record_rates([6], [], np.array([-1, -1, 3, 3, 3, 3]), 1.0)
    np.testing.assert_allclose(rates.each, [1, 1, 0.25, 0.25, 0.25, 0.25])

"""Changes of similarities, number by number."""

import numpy as np
import pytest

from xsample_jax.graphs.targets import LOCAL, TRANSFORMS, affine, bounds_after, power, threshold, top_k

G = np.array([[0.9, -0.2, 0.5, 0.5, 0.1], [-0.3, 0.4, 0.2, -1.0, 0.8]], np.float32)
VALID = np.array([[False, True, True, True, True], [True, True, True, True, True]])


def test_affine_maps_cosines_to_weights_by_default():
    np.testing.assert_allclose(affine(G, VALID), (1 + G) / 2, rtol=1e-6)
    np.testing.assert_allclose(affine(G, VALID, scale=2.0, offset=-1.0), 2 * G - 1, rtol=1e-6)


def test_power_has_no_negative_base():
    expected = [[max(float(g), 0) ** 3 for g in row] for row in G]
    np.testing.assert_allclose(power(G, VALID, exponent=3.0), expected, rtol=1e-6)


def test_threshold():
    np.testing.assert_array_equal(threshold(G, VALID, at=0.5)[0], G[0] * [1, 0, 1, 1, 0])
    np.testing.assert_array_equal(threshold(G, VALID, at=0.5, binary=True)[1], [0, 0, 0, 0, 1])


def test_top_k_among_valid_keys():
    # The best key of the first row is not valid; the next two are a tie.
    kept = top_k(G, VALID, k=1)
    np.testing.assert_array_equal(kept[0][1:], np.array([-1e9, 0.5, 0.5, -1e9], np.float32))
    np.testing.assert_array_equal(kept[1], np.array([-1e9, -1e9, -1e9, -1e9, 0.8], np.float32))
    np.testing.assert_array_equal(top_k(G, VALID, k=2, masked=False)[1], np.array([0, 0.4, 0, 0, 0.8], np.float32))
    np.testing.assert_array_equal(np.asarray(top_k(G, VALID, k=99))[VALID], G[VALID])


@pytest.mark.parametrize("name", LOCAL)
def test_local_transforms_need_no_other_key(name):
    options = {"power": {"exponent": 2.0}, "threshold": {"at": 0.3}}.get(name, {})
    whole = TRANSFORMS[name](G, VALID, **options)
    np.testing.assert_array_equal(TRANSFORMS[name](G[:1, 1:3], VALID[:1, 1:3], **options), whole[:1, 1:3])


@pytest.mark.parametrize(
    ("transforms", "tight"),
    [
        ((), True),
        (({"name": "affine", "scale": 20.0, "offset": 1.0},), True),
        (({"name": "affine", "scale": -2.0, "offset": 0.5}, {"name": "power", "exponent": 3.0}), False),
        (({"name": "affine", "scale": 3.0, "offset": 0.0}, {"name": "threshold", "at": -1.5}), True),
        (({"name": "threshold", "at": 0.5, "binary": True}, {"name": "affine", "scale": 4.0, "offset": -2.0}), False),
    ],
)
def test_bounds_hold_every_value(transforms, tight):
    values = np.linspace(-1, 1, 41)
    for transform in transforms:
        options = {name: value for name, value in transform.items() if name != "name"}
        values = np.asarray(TRANSFORMS[transform["name"]](values, None, **options))
    lowest, highest = bounds_after(transforms)
    assert lowest <= values.min() + 1e-6
    assert highest >= values.max() - 1e-6
    if tight:
        assert highest == pytest.approx(values.max())


def test_top_k_is_not_local():
    assert "top_k" not in LOCAL
    assert not np.array_equal(top_k(G[1:, :2], VALID[1:, :2], k=1), top_k(G, VALID, k=1)[1:, :2])

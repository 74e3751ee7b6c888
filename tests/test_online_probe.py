"""The online probe against a plain loop; the encoder learns the same with and without it."""

import jax
import numpy as np
import pytest

from tests.test_step import preset_config, run_steps
from tests.tiny import tiny_config
from xsample_jax.data.writer import write_records
from xsample_jax.errors import ConfigError
from xsample_jax.setup import build_run
from xsample_jax.step import MOMENTUM, PROBE, RATE, init_online_probe, train_online_probe

pytestmark = pytest.mark.usefixtures("linear_encoder")


def test_steps_are_those_of_a_plain_loop():
    rng = np.random.default_rng(0)
    memory, step = init_online_probe(5, 3), jax.jit(train_online_probe)
    w, b, speed_w, speed_b = np.zeros((5, 3)), np.zeros(3), np.zeros((5, 3)), np.zeros(3)
    for _ in range(4):
        features, labels = rng.normal(size=(8, 5)) * 3 + 1, np.array([0, 2, -1, 1])
        memory, accuracy = step(memory, features, labels)
        x = (features - features.mean(axis=0)) / np.sqrt(features.var(axis=0) + 1e-5)
        rows = [i for i in range(8) if labels[i // 2] >= 0]  # row = image * 2 + view
        right, slope_w, slope_b = 0, np.zeros((5, 3)), np.zeros(3)
        for i in rows:
            logits = x[i] @ w + b
            p = np.exp(logits) / np.exp(logits).sum()
            right += np.argmax(logits) == labels[i // 2]
            p[labels[i // 2]] -= 1
            slope_w += np.outer(x[i], p) / len(rows)
            slope_b += p / len(rows)
        speed_w, speed_b = MOMENTUM * speed_w + slope_w, MOMENTUM * speed_b + slope_b
        w, b = w - RATE * speed_w, b - RATE * speed_b
        assert accuracy == pytest.approx(right / len(rows), abs=1e-6)
        np.testing.assert_allclose(memory[PROBE + "weights"], w, atol=1e-5)
        np.testing.assert_allclose(memory[PROBE + "bias"], b, atol=1e-5)


def test_the_encoder_does_not_notice():
    clipped = {"optimizer__clip_norm": 0.1}  # which a gradient of the probe would change
    _, plain, _ = run_steps(preset_config("xclr", **clipped), 2)
    _, probed, metrics = run_steps(preset_config("xclr", eval__online_probe=True, **clipped), 2)
    for name, value in plain.params.items():
        np.testing.assert_allclose(
            probed.params[name], value, atol=5e-6, err_msg=name
        )  # two programs round differently
    assert set(probed.params) == set(plain.params)
    assert not plain.memory
    assert np.abs(probed.memory[PROBE + "weights"]).max() > 0
    assert all(0 <= of["online_probe"] <= 1 for of in metrics)


def test_rows_on_eight_devices_give_the_same_step():
    rng = np.random.default_rng(1)
    features, labels = rng.normal(size=(32, 5)).astype(np.float32), rng.integers(-1, 3, 16)
    memory = {name: rng.normal(size=value.shape) for name, value in init_online_probe(5, 3).items()}
    rows = jax.NamedSharding(jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)), jax.P("data"))
    one, accuracy = jax.jit(train_online_probe)(memory, features, labels)
    many, same = jax.jit(train_online_probe)(memory, *jax.device_put((features, labels), rows))
    assert same == pytest.approx(float(accuracy), abs=1e-6)
    for name, value in one.items():
        np.testing.assert_allclose(many[name], value, atol=1e-5)


def test_it_is_refused_for_a_set_without_classes(tmp_path):
    record = {"image": b"x", "label": -1}
    write_records(tmp_path, "plain", {"train": [record | {"id": number} for number in range(16)]})
    data = {"data__source": "records", "data__path": str(tmp_path)}
    with pytest.raises(ConfigError, match="without class names"):
        build_run(tiny_config(objective__preset="simclr", eval__online_probe=True, **data))

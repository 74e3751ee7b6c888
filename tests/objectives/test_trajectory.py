"""SAF: the published number through the preset's term, the ring against lists, bad input.

Steps and runs, on several devices and resumed, have all of it at once: past rows over prototypes, noise that is learned
against the loss (AdvStyle) and a thin network (SACL-XD).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.config.changed import changed, fields
from tests.lives import differences
from tests.objectives.golden_inputs import CASES, QUEUE, Z1, Z2, images
from tests.objectives.synthetic import Styled
from tests.quick import quick_jit
from tests.test_resume import run_on
from tests.tiny import run_steps, tiny_config
from xsample_jax import loop
from xsample_jax.encoder import load_encoder
from xsample_jax.errors import CheckpointError, ConfigError
from xsample_jax.io.checkpoint_files import read_arrays, saved_arrays
from xsample_jax.metrics.jsonl import read_jsonl
from xsample_jax.models import towers
from xsample_jax.models.thin import SLIM
from xsample_jax.objectives.adversary import UPDATES
from xsample_jax.objectives.blocks import Rows, key_block
from xsample_jax.objectives.from_config import build_objective
from xsample_jax.objectives.objective import Objective, objective_loss
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.objectives.streaming.terms import why_not
from xsample_jax.objectives.style_noise import SPREAD, STYLE
from xsample_jax.objectives.terms import StepValues
from xsample_jax.objectives.trajectory import (
    PAST,
    VISITS,
    columns_of,
    divergence_of_past,
    init_past,
    recall_past,
    terms_of_past,
)
from xsample_jax.setup import check_device_memory
from xsample_jax.state import Progress
from xsample_jax.tools.export import export

GOLDEN, OBJECTIVE = CASES["SAF trajectory loss"], PRESETS["saf"].objective
(TERM,) = terms_of_past(OBJECTIVE)
PAST_GRAPH = {"source": "past", "normalizer": "softmax", "target_temperature": 0.5}
OF_PROTOTYPES = {"graph": PAST_GRAPH, "keys": "prototypes", "temperature": 0.5}
THIN = (f"{SLIM}norm/mean", f"{SLIM}norm/var")


def classes(z):
    columns = jnp.arange(len(z), dtype=jnp.int32)
    return key_block(jnp.float32(z), label=columns, column=columns)


def test_the_preset_has_the_published_term():
    """The golden is lambda = 1 at logits 4 z.q: lambda 0.3 in its README, tau 5 of those logits."""
    assert TERM.weight["weight"] == pytest.approx(25 * 0.3)
    assert TERM.temperature == TERM.graph.target_temperature == pytest.approx(5 * OBJECTIVE.temperature)
    term = dataclasses.replace(TERM, temperature=5 / 4, graph=dataclasses.replace(TERM.graph, target_temperature=5 / 4))
    alone, columns = dataclasses.replace(OBJECTIVE, terms=(term,)), QUEUE[:10]

    def kl(z, past, progress):
        blocks = {"image": images(z, past=past @ columns.T), "classes": classes(columns)}
        found = objective_loss(alone, blocks, 12, 0.1, StepValues(progress=progress))[1]["kl"]
        return found, divergence_of_past(alone, blocks, 0.1)

    both = quick_jit(jax.value_and_grad(kl, has_aux=True))
    (value, logged), slope = both(jnp.float32(Z1), Z2, 0.5)
    assert value == pytest.approx(GOLDEN["also"]["times_reinforce_03"], rel=1e-4)
    assert value / 0.3 == pytest.approx(GOLDEN["expected"], rel=1e-4)
    assert 25 * logged == pytest.approx(GOLDEN["expected"], rel=1e-4)
    assert np.linalg.norm(slope) / 0.3 == pytest.approx(GOLDEN["also"]["gradient_norm_z1"], rel=1e-4)
    (value, logged), slope = both(jnp.float32(Z2), Z2, 0.5)  # the past is now
    assert (value, logged) == (pytest.approx(0, abs=1e-4), pytest.approx(0, abs=1e-6))
    assert np.abs(slope).max() < 1e-5
    (value, logged), slope = both(jnp.float32(Z1), Z2, 0.01)  # before its start
    assert (float(value), float(np.abs(slope).max())) == (0, 0)
    assert 25 * logged == pytest.approx(GOLDEN["expected"], rel=1e-4)


def test_the_logged_divergence_is_at_the_temperature_of_now():
    """faults A4: of a learned temperature it took the start value."""
    term = dataclasses.replace(TERM, temperature="base")
    alone = dataclasses.replace(OBJECTIVE, terms=(term,), learn_temperature=True)
    blocks = {"image": images(Z1, past=Z2 @ QUEUE[:10].T), "classes": classes(QUEUE[:10])}
    past, now = (np.exp(z @ QUEUE[:10].T / 0.7) for z in (Z2, Z1))
    past, now = (rows / rows.sum(axis=1, keepdims=True) for rows in (past, now))
    expected = np.mean(np.sum(past * np.log(past / now), axis=1))
    assert divergence_of_past(alone, blocks, 0.7) == pytest.approx(expected, rel=1e-4)


def test_every_view_has_its_own_past_and_prototypes_need_not_divide_the_devices():
    """An image that is too new has that of each of its views; five prototypes cannot be split over eight devices."""
    term = dataclasses.replace(TERM, keys=Rows("prototypes"))
    objective = Objective((term,), 0.1, prototypes=10, past=3)
    past = np.random.default_rng(0).uniform(-1, 1, (24, 10))
    blocks = {"image": images(Z1, Z2, per_row={"past": lambda z: jnp.float32(past)}), "prototypes": classes(QUEUE[:10])}
    at = StepValues(progress=0.5)
    value = quick_jit(lambda: objective_loss(objective, blocks, 12, 0.1, at)[0])()
    now = np.stack([Z1, Z2], axis=1).reshape(24, 16) @ QUEUE[:10].T / 0.5
    target = np.exp(past / 0.5)
    rows = np.log(np.exp(now).sum(axis=1)) - np.sum(target / target.sum(axis=1, keepdims=True) * now, axis=1)
    assert value == pytest.approx(7.5 * rows.mean(), rel=1e-5)
    assert "prototypes" in why_not(term)


def test_the_ring_gives_every_image_its_row_of_three_visits_ago():
    """Against lists; images come in any order, one of them twice in a batch; slots as in the published code."""
    rng, count, width = np.random.default_rng(0), 9, 5
    memory = init_past(OBJECTIVE, count, width)
    assert {name: value.shape for name, value in memory.items()} == {PAST: (4096, 4, width), VISITS: (4096,)}
    columns = rng.normal(size=(width, 4))
    columns /= np.linalg.norm(columns, axis=1, keepdims=True)

    def visit(memory, z, index):
        blocks = {"image": {"z": z}, "classes": classes(columns)}
        return recall_past(OBJECTIVE, blocks, memory, index)

    step, seen = quick_jit(visit), {image: [] for image in range(count)}
    for number in range(14):
        index = rng.permutation(count)[:5]
        index[3] = index[1] if number % 3 == 2 else index[3]
        z = rng.normal(size=(10, 4)).astype(np.float32)  # two views of each
        now = (z @ columns.T).reshape(5, 2, width)
        past, new = step(memory, z, index.astype(np.int32))
        for place, image in enumerate(index):
            rows = seen[image]
            expected = [rows[-3]] * 2 if len(rows) >= 3 else now[place]
            np.testing.assert_allclose(past[2 * place : 2 * place + 2], expected, atol=8e-3, rtol=8e-3)
            assert int(new[VISITS][image]) == len(rows) + 1
        for image in set(index):
            place = list(index).index(image)
            written = np.flatnonzero((np.asarray(new[PAST][image]) != np.asarray(memory[PAST][image])).any(axis=1))
            assert written.tolist() == [len(seen[image]) % 4]
            seen[image].append(now[place].mean(axis=0))
        memory = memory | new
    assert max(map(len, seen.values())) > 5
    ring = GOLDEN["also"]["ring_slot_written_and_read_at_epochs_5_6_7_8"]
    assert ring == [[visit % 4, (visit + 1) % 4] for visit in (5, 6, 7, 8)]


@pytest.fixture
def config(monkeypatch):
    """A run that keeps everything."""
    monkeypatch.setitem(towers.ENCODERS, "resnet18", lambda config, rngs: Styled(config.model.width, rngs))
    plain = {"augment__crop_scale": (), "augment__jitter": 0.0, "augment__gray": 0.0, "batch_size": 8}
    noise = {"kind": "adversarial", "stages": (0,), "updates": 1}
    noise = {f"model__style_noise__{name}": value for name, value in noise.items()}
    slim = [{"block": block, "view": view, "raw": True} for view, block in enumerate(("image", "slim"))]
    terms = ({"name": "barlow_twins", "x": slim[0], "y": slim[1]}, OF_PROTOTYPES)
    own = {"preset": "sacl_xd", "past": 1, "prototypes": 5, "terms": terms}
    own = {f"objective__{name}": value for name, value in own.items()}
    data = {"data__fraction": 0.003, "checkpoint__every": 100, "optimizer__ema": 0.9}
    return tiny_config(steps=6, **own, **plain, **noise, **data)


def test_one_and_eight_devices_and_what_is_kept_is_split(config):
    (parts, one, before), (_, eight, after) = (run_steps(config, devices, 4) for devices in (1, 8))
    np.testing.assert_allclose([m["loss"] for m in before], [m["loss"] for m in after], rtol=1e-4)
    assert parts.objective.requires == {"index"}
    np.testing.assert_array_equal(one.memory[VISITS], eight.memory[VISITS])
    assert int(one.memory[VISITS].sum()) == 4 * config.batch_size
    rows = [np.float32(state.memory[PAST]) for state in (one, eight)]
    np.testing.assert_allclose(*rows, atol=8e-3)  # the last bit of bfloat16
    (shard, *_) = eight.memory[PAST].addressable_shards
    assert shard.data.shape == (512, 2, 5)
    assert before[0]["past_divergence"] == pytest.approx(0, abs=1e-5)  # nobody has been there before
    assert before[3]["past_divergence"] > 1e-7
    names = [name for name in one.memory if name.startswith(STYLE)]
    assert len(names) == 3
    for name in names:
        np.testing.assert_allclose(one.memory[name], eight.memory[name], rtol=2e-3, atol=1e-5, err_msg=name)
    assert int(one.memory[STYLE + UPDATES]) == 4
    assert one.memory[f"{STYLE}{SPREAD}stem"].min() > 0
    start = parts.new_state().statistics
    for name in THIN:
        np.testing.assert_allclose(one.statistics[name], eight.statistics[name], rtol=1e-2, atol=1e-3, err_msg=name)
        assert one.statistics[name].shape == one.ema[name].shape == (4,)
        assert not np.array_equal(one.statistics[name], start[name])
        # The first channels of this encoder see the same inputs in both networks.
        wide = one.statistics["encoder/" + name.removeprefix(SLIM)]
        np.testing.assert_allclose(one.statistics[name], wide[:4], rtol=1e-5)
    assert {name for name in one.statistics if name.startswith(SLIM)} == set(THIN)
    assert not [name for name in one.params if "slim" in name]
    with pytest.raises(CheckpointError, match="keeps something for every image"):
        parts.check_images(Progress(images="those"), allow=True)
    parts.__dict__["facts"] = dataclasses.replace(parts.facts, count=10**12, classes=1000)
    for name in ("init", "abstract_state"):
        parts.__dict__.pop(name, None)
    with pytest.raises(ConfigError, match=r"device memory.*objective\.past"):
        check_device_memory(parts)


@pytest.mark.usefixtures("no_report")
def test_a_stopped_run_ends_as_a_whole_one(config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loop, "LEAST_TOLD", 0.0)
    run_on(monkeypatch, 1, config, tmp_path / "whole")
    assert "the objective keeps 0.00 GiB for the images of the split" in capsys.readouterr().out
    run_on(monkeypatch, 1, config, tmp_path / "stopped", stop_after=4)
    run_on(monkeypatch, 1, config, tmp_path / "stopped")
    assert differences(tmp_path / "whole", tmp_path / "stopped") == (0, [])
    lines = [line for line in read_jsonl(tmp_path / "stopped" / "metrics.jsonl") if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, 7))
    assert lines[-1]["past_divergence"] > 1e-7
    assert all(line["style_mean_norm"] > 0 < line["style_deviation_norm"] for line in lines)
    check_thin(tmp_path / "whole", tmp_path / "thin.npz")


def check_thin(run, file):
    """The thin network of a run and of its export: an encoder of its own, by the moving average."""
    thin, wide = (load_encoder(run, slim=slim) for slim in (True, False))
    assert (thin.config.model.width, wide.config.model.width, thin.features) == (4, 8, wide.features // 2)
    average = read_arrays(run, 6, saved_arrays(run, 6), None)["ema"]
    for path, value in thin.arrays.items():
        kept = average.get(SLIM + path, average.get(f"encoder/{path}"))
        np.testing.assert_array_equal(value, kept[tuple(slice(size) for size in value.shape)], err_msg=path)
    assert "4 channels in its first stage" in export(str(run), "npz", file, slim=True)
    pictures = np.random.default_rng(0).integers(0, 255, (2, 32, 32, 3)).astype(np.uint8)
    np.testing.assert_array_equal(load_encoder(file).encode(pictures), thin.encode(pictures))
    with pytest.raises(CheckpointError, match=r"thin network of.*sacl_xd"):
        load_encoder(file, slim=True)


def test_prototypes_are_columns_too_and_mistakes_are_named():
    of_prototypes = {"objective__terms": ({}, OF_PROTOTYPES), "objective__prototypes": 7, "objective__past": 2}
    config = changed(**{"objective__preset": "simclr"} | of_prototypes)
    assert fields(config) == []
    objective = build_objective(config.objective)
    assert columns_of(objective) == "prototypes"
    assert init_past(objective, 5, 99)[PAST].shape == (4096, 3, 7)
    assert objective.requires == {"index"}
    for changes, field in (
        ({"objective__preset": "simclr", "objective__past": 2}, "objective.past"),
        ({"objective__preset": "saf", "objective__past": 0}, "objective.terms[1].graph.source"),
        (
            {"objective__preset": "simclr", "objective__terms": ({"graph": "past", "keys": "image"},)},
            "objective.terms[0].graph.source",
        ),
        ({"objective__preset": "saf", "objective__generator__kind": "hard"}, "objective.generator.kind"),
    ):
        assert field in fields(changed(**changes)), changes

"""A frozen teacher: goldens of objectives that learn from one (ND, KaLM's distillation), its state, bad input."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives.golden_inputs import CASES, LABELS, Z1, Z2, Z3, images, preset_value
from tests.objectives.test_build import build, problems
from tests.quick import quick_jit
from tests.tiny import random_batch, tiny_config, tiny_parts, untrained
from xsample_jax.encoder import load_encoder
from xsample_jax.errors import CheckpointError, ConfigError, Problems
from xsample_jax.io.checkpoint_files import find_checkpoint, read_arrays, saved_arrays
from xsample_jax.io.files import EVALUATION
from xsample_jax.loop import train
from xsample_jax.objectives.blocks import Rows, key_block
from xsample_jax.objectives.frozen import COUNTS, FINGERPRINT, FROZEN, MEANS, frozen_memory, move_class_means
from xsample_jax.objectives.objective import objective_loss
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.sharding import to_global
from xsample_jax.state import TrainState


def nd(students, **side):
    centers = np.stack([5 * Z3[label == LABELS].mean(axis=0) for label in LABELS])
    rows = {"raw": lambda z: students, "frozen_features": lambda z: 2.5 * Z2}
    return preset_value("norm_direction", {"image": images(Z1, per_row=rows, class_center=centers, **side)})


def test_nd_has_the_gradient_of_the_published_code_and_rows_grow_until_they_are_as_long_as_the_teachers():
    students = jnp.float32((1 + np.arange(12) / 3)[:, None] * Z1)
    slope = quick_jit(jax.grad(nd))(students)
    golden = CASES[PRESETS["norm_direction"].golden]
    assert np.linalg.norm(slope) == pytest.approx(golden["also"]["gradient_norm_student"], rel=1e-4)
    centers = np.stack([5 * Z3[label == LABELS].mean(axis=0) for label in LABELS])
    growth = -np.sum(np.asarray(slope) * np.asarray(students), axis=1)  # of the length, by a step down
    short = np.linalg.norm(students, axis=1) < 2.5
    towards = np.sum(np.asarray(students) * centers, axis=1) > 0
    assert (growth[short & towards] > 1e-4).all()
    np.testing.assert_allclose(growth[~short], 0, atol=1e-6)
    assert short.any()
    assert not short.all()


def test_seed_with_given_keys_is_the_distillation_of_kalm():
    """The golden's keys are 36 passages, which teacher and student share: KL(teacher || student)."""
    golden = CASES["KaLM-V2: contrastive distillation KL(teacher || student)"]
    passages = jnp.float32(golden["extra"]["passages"])
    objective = PRESETS["seed"].objective
    (term,) = objective.terms
    graph = dataclasses.replace(term.graph, target_temperature=0.05)
    term = dataclasses.replace(term, graph=graph, keys=Rows("frozen"))

    def kl(z, passages):
        blocks = {"image": images(z, frozen=Z3), "frozen": key_block(passages, frozen=passages)}
        return objective_loss(dataclasses.replace(objective, terms=(term,)), blocks, 12, 0.05)[1]["kl"]

    value, slope = quick_jit(jax.value_and_grad(kl))(jnp.float32(Z1), passages)
    assert value == pytest.approx(golden["expected"], rel=1e-5)
    assert np.linalg.norm(slope) == pytest.approx(golden["also"]["gradient_norm_z1"], rel=1e-4)
    assert kl(jnp.float32(Z3), passages) == pytest.approx(0, abs=1e-5)


def test_means_of_classes_are_those_of_all_views_seen():
    rng = np.random.default_rng(1)
    batches = [(rng.normal(size=(8, 3)).astype(np.float32), rng.integers(-1, 3, 4)) for _ in range(3)]
    memory = {MEANS: jnp.zeros((4, 3)), COUNTS: jnp.zeros(4, jnp.int32)}
    for features, label in batches:
        own, memory = move_class_means(memory, jnp.asarray(features), jnp.asarray(label))
        np.testing.assert_allclose(own[label >= 0], memory[MEANS][label[label >= 0]])
        np.testing.assert_array_equal(own[label < 0], 0)
    rows = np.concatenate([features for features, _ in batches])
    labels = np.concatenate([np.repeat(label, 2) for _, label in batches])
    for number in range(4):
        expected = rows[labels == number].mean(axis=0) if (labels == number).any() else np.zeros(3)
        np.testing.assert_allclose(memory[MEANS][number], expected, atol=1e-6)
        assert memory[COUNTS][number] == (labels == number).sum()


@pytest.mark.usefixtures("linear_encoder")
@pytest.mark.parametrize("preset", ["seed", "norm_direction"])
def test_a_step_trains_the_student_alone_on_any_number_of_devices(preset):
    """The teacher's weights are not among the parameters, stay as they are, and are those that were loaded."""
    found = {}
    for devices in (1, 8):
        config = tiny_config(objective__preset=preset, model__head__dim=4, batch_size=8, optimizer__name="sgd")
        parts = tiny_parts(config, jax.devices()[:devices])
        state = parts.new_state()
        start = jax.device_get(state.params)
        assert not any(name.startswith(FROZEN) for name in state.params)
        parts.check_frozen(state)
        for step in range(2):
            batch = {name: random_batch(config, step)[name] for name in parts.abstract_batch}
            state, metrics = parts.train_step(state, to_global(batch, parts.mesh))
        found[devices] = (float(metrics["loss"]), jax.device_get(state))
        for name, value in parts.frozen.arrays.items():
            np.testing.assert_array_equal(found[devices][1].memory[FROZEN + name], value)
        if preset == "seed":  # features of the first view of both batches
            queue = found[devices][1].memory["queue/frozen_z"]
            np.testing.assert_allclose(np.linalg.norm(queue, axis=1), np.arange(len(queue)) < 16, rtol=1e-5)
        assert any(np.abs(value - start[name]).max() > 0 for name, value in found[devices][1].params.items())
    assert found[8][0] == pytest.approx(found[1][0], rel=1e-5)
    for name, value in found[1][1].params.items():
        np.testing.assert_allclose(found[8][1].params[name], value, atol=2e-5, err_msg=name)


@pytest.mark.usefixtures("linear_encoder")
def test_another_teacher_and_one_that_does_not_fit_are_refused(monkeypatch):
    config = tiny_config(objective__preset="seed", model__head__dim=4)
    parts = tiny_parts(config, jax.devices()[:1])
    mark = frozen_memory(untrained(config, seed=1).arrays)[FINGERPRINT]
    other = TrainState(0, {}, {}, (), {FINGERPRINT: mark}, {})
    assert mark != parts.frozen_memory[FINGERPRINT]
    with pytest.raises(CheckpointError, match="the teacher that this run began with"):
        parts.check_frozen(other)
    with pytest.raises(ConfigError, match="expected the folder of a finished run"):
        dataclasses.replace(parts).frozen  # noqa: B018

    monkeypatch.setattr("xsample_jax.setup.load_encoder", lambda path: untrained(config))
    wrong = tiny_config(objective__preset="seed", objective__frozen="runs/teacher", augment__mean=(0.5, 0.5, 0.5))
    with pytest.raises(Problems) as caught:
        dataclasses.replace(parts, config=wrong).frozen  # noqa: B018
    assert [problem.field for problem in caught.value.problems] == ["augment.mean", "model.head.dim"]
    assert "--config.model.head.dim=4" in str(caught.value)


@pytest.mark.usefixtures("linear_encoder", "no_report")
def test_a_run_learns_from_a_finished_run_and_is_resumed_with_that_teacher_only(tmp_path):
    def run(name, **changes):
        config = tiny_config(steps=2, eval__suite="none", optimizer__name="sgd", **changes)
        return train(config, tmp_path / name)

    run("teacher", objective__preset="simclr")
    student = {"objective__preset": "norm_direction", "objective__frozen": str(tmp_path / "teacher")}
    run("student", model__head__dim=4, **student)
    teacher, mark = load_encoder(tmp_path / "teacher"), tmp_path / "student" / EVALUATION
    place, step = find_checkpoint(tmp_path / "student")
    memory = read_arrays(place, step, saved_arrays(place, step, ("memory",)), sharding=None)["memory"]
    for name, value in teacher.arrays.items():
        np.testing.assert_array_equal(memory[FROZEN + name], value)
    assert memory[COUNTS].sum() > 0
    assert load_encoder(tmp_path / "student").features == 4  # the student's own encoder, without the teacher's

    mark.unlink()  # as if it had been stopped
    run("student", model__head__dim=4, **student)
    mark.unlink()
    (tmp_path / "teacher").rename(tmp_path / "first")
    with pytest.raises(CheckpointError, match="teacher"):
        run("student", model__head__dim=4, **student)
    run("teacher", objective__preset="simclr", seed=7)
    with pytest.raises(CheckpointError, match="the teacher that this run began with"):
        run("student", model__head__dim=4, **student)


def test_a_teacher_that_is_not_there_is_named(tmp_path):
    config = tiny_config(objective__preset="seed", objective__frozen=str(tmp_path / "gone"))
    parts = tiny_parts(config, jax.devices()[:1])
    with pytest.raises(CheckpointError, match="gone"):
        parts.frozen  # noqa: B018


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"preset": "simclr", "frozen": "runs/teacher"}, "objective.frozen", "no term of this objective reads"),
        ({"preset": "simclr", "terms": ({"keys": "frozen"},)}, "rows.block", "a frozen"),
        ({"preset": "moco", "terms": ({"keys": "frozen_queue"},)}, "rows.block", "a frozen"),
        (
            {"preset": "norm_direction", "terms": ({"name": {"name": "norm_direction", "raw": False}},)},
            "objective.feature_terms[0].name.raw",
            "rows of length one cannot grow",
        ),
        ({"preset": "simclr", "terms": ({"name": "norm_direction"},)}, "feature_terms[0].name", "a frozen teacher"),
        ({"preset": "norm_direction", "widths": (8, 4)}, "objective.widths", "whole head outputs"),
    ],
)
def test_what_makes_no_sense_is_refused(changes, field, words):
    found = problems(**changes)
    assert any(problem.field.endswith(field) and words in str(problem) for problem in found), found


def test_a_graph_of_the_teacher_needs_no_width():
    """Teacher and student may differ in width where the teacher only says what is similar."""
    graph = {"source": "frozen", "normalizer": "softmax"}
    assert build(preset="simclr", frozen="runs/teacher", terms=({"graph": graph},)).frozen

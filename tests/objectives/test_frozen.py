"""A frozen teacher: goldens of objectives that learn from one (ND, KaLM's distillation, DistillCLIP), its state, bad
input."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives.golden_inputs import CASES, LABELS, QUEUE, Z1, Z2, Z3, images, preset_value, texts
from tests.objectives.test_build import build, problems
from tests.quick import quick_jit
from tests.tiny import random_batch, run_steps, tiny_config, tiny_parts, untrained
from xsample_jax.encoder import LOG_SCALE, Encoder, load_encoder
from xsample_jax.errors import CheckpointError, ConfigError, DataError, Problems
from xsample_jax.io.checkpoint_files import find_checkpoint, read_arrays, saved_arrays
from xsample_jax.io.files import EVALUATION
from xsample_jax.loop import train
from xsample_jax.objectives.blocks import Rows, key_block
from xsample_jax.objectives.frozen import (
    COUNTS,
    FINGERPRINT,
    FROZEN,
    MEANS,
    frozen_memory,
    move_class_means,
    parts_of_teacher,
)
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


def distill_clip(views, text, scale, teacher, tau_t):
    """open_clip's DistillClipLoss in float64, the mean over the views of the images."""

    def log_softmax(logits):
        shifted = logits - logits.max(axis=1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))

    found = []
    for z, t in zip(views, teacher["image"], strict=True):
        of_student, of_teacher = scale * z @ text.T, t @ teacher["text"].T / tau_t
        for own, theirs in ((of_student, of_teacher), (of_student.T, of_teacher.T)):
            target = np.exp(log_softmax(theirs)) + np.eye(len(own))  # of both losses
            found.append(-(target * log_softmax(own)).sum(axis=1).mean() / len(views))
    return sum(found) / 2


def test_distill_clip_is_the_formula_of_open_clip_with_its_gradient():
    """Two views, and a teacher of another width; its own temperature in the place of tau_s."""
    teacher = {"image": [z[:, :9] for z in (Z2, Z3)], "text": QUEUE[:12, :9]}
    teacher = jax.tree.map(lambda z: z / np.linalg.norm(z, axis=1, keepdims=True), teacher)
    rows = {"frozen_pair": lambda z: jnp.stack(teacher["image"], axis=1).reshape(24, 9)}

    def value(first, second, text):
        blocks = {"image": images(first, second, per_row=rows), "text": texts(text, frozen_pair=teacher["text"])}
        return preset_value("distill_clip", blocks, target_temperature=0.03)

    given = [np.asarray(z, np.float64) for z in (Z1, Z3, Z2)]
    found, slopes = quick_jit(jax.value_and_grad(value, argnums=(0, 1, 2)))(*map(jnp.float32, given))
    plain = lambda first, second, text: distill_clip((first, second), text, 1 / 0.07, teacher, 0.03)  # noqa: E731
    assert found == pytest.approx(plain(*given), rel=1e-5)
    rng = np.random.default_rng(0)
    for number, slope in enumerate(slopes):
        step = 1e-6 * rng.normal(size=given[number].shape)
        there, back = ([z + sign * step * (n == number) for n, z in enumerate(given)] for sign in (1, -1))
        assert np.sum(np.asarray(slope) * step) == pytest.approx((plain(*there) - plain(*back)) / 2, rel=1e-3)


TEXTS = {"model__text__layers": 1, "model__text__width": 8, "model__text__heads": 2, "model__head__batch_norm": False}


@pytest.mark.usefixtures("linear_encoder")
def test_a_teacher_that_is_the_student_adds_the_entropy_of_its_own_similarities_alone():
    """Its embeddings and its own temperature reach the loss: what is left of the divergence is CLIP's loss."""
    _, start, (clip,) = run_steps(tiny_config(objective__preset="clip", **TEXTS), steps=1)
    config = tiny_config(objective__preset="distill_clip", **TEXTS)
    start = jax.device_get(tiny_parts(config, jax.devices()[:1]).new_state()).params

    def kl(scale=0.0, **changes):
        config = tiny_config(objective__preset="distill_clip", **TEXTS, **changes)
        parts = tiny_parts(config, jax.devices()[:1])
        own = {name.removeprefix("encoder/"): x for name, x in start.items() if name.startswith("encoder/")}
        sides = {name: x for name, x in start.items() if name.startswith(("head/", "text/"))}
        sides[LOG_SCALE] = start[LOG_SCALE] + scale
        parts.__dict__["frozen"] = Encoder(config, 0, own, sides)
        batch = {name: random_batch(config, 0)[name] for name in parts.abstract_batch}
        return float(parts.train_step(parts.new_state(), to_global(batch, parts.mesh))[1]["kl"])

    assert kl() == pytest.approx(clip["loss"], rel=1e-5)
    assert kl(loss__grad_cache=2) == pytest.approx(clip["loss"], rel=1e-5)
    assert kl(scale=1.0) > clip["loss"] + 1e-3
    assert kl(scale=1.0, objective__target_temperature=0.07) == pytest.approx(clip["loss"], rel=1e-5)


@pytest.mark.usefixtures("linear_encoder")
@pytest.mark.parametrize(
    ("preset", "changes", "source", "words"),
    [
        ("simclr", {}, {}, "one that reads tokens, as this run's does"),
        ("clip_frozen_text", {}, {}, "maps caption embeddings"),
        ("clip", TEXTS, {"tokenizer": "another"}, "the tokenizer of this dataset"),
        ("clip", TEXTS | {"model__text__length": 4}, {}, "--config.model.text.length=4"),
    ],
)
def test_a_teacher_that_does_not_read_the_captions_is_refused_by_one_message(
    preset, changes, source, words, monkeypatch
):
    teacher = untrained(tiny_config(objective__preset=preset, **changes))
    monkeypatch.setattr("xsample_jax.setup.load_encoder", lambda path: dataclasses.replace(teacher, text_source=source))
    config = tiny_config(objective__preset="distill_clip", objective__frozen="runs/teacher", **TEXTS)
    with pytest.raises(ConfigError, match="text side of runs/teacher") as caught:
        tiny_parts(config, jax.devices()[:1]).frozen  # noqa: B018
    assert not isinstance(caught.value, Problems)
    assert words in str(caught.value)


@pytest.mark.usefixtures("linear_encoder")
def test_a_teacher_on_caption_embeddings_is_of_the_same_text_encoder(monkeypatch):
    """Any preset takes the graph in its terms; a teacher on the same dataset is taken."""
    graph = {"source": "frozen_pair", "normalizer": "softmax"}
    terms = tuple({"graph": graph, "anchors": a, "keys": k} for a, k in (("image", "text"), ("text", "image")))
    config = tiny_config(objective__preset="clip_frozen_text", objective__terms=terms, objective__frozen="runs/teacher")
    teacher = untrained(tiny_config(objective__preset="siglip"))
    own = dataclasses.replace(teacher, config=config).with_texts().text_source["text_encoder"]

    def take(teacher, **about):
        source = {"text_encoder": own | about}
        monkeypatch.setattr(
            "xsample_jax.setup.load_encoder", lambda path: dataclasses.replace(teacher, text_source=source)
        )
        return tiny_parts(config, jax.devices()[:1]).frozen_memory

    assert FROZEN + "text/out/kernel" in take(teacher)
    with pytest.raises(ConfigError, match="the text encoder of this dataset"):
        take(teacher, name="another")
    sides = {path: value for path, value in teacher.sides.items() if path.startswith("text/")}
    with pytest.raises(DataError, match="head/"):  # an older file did not keep it
        take(dataclasses.replace(teacher, sides=sides))


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
@pytest.mark.parametrize("preset", ["seed", "norm_direction", "distill_clip"])
def test_a_step_trains_the_student_alone_on_any_number_of_devices(preset):
    """The teacher's weights are not among the parameters, stay as they are, and are those that were loaded."""
    found = {}
    texts = TEXTS if preset == "distill_clip" else {}
    for devices in (1, 2, 8) if texts else (1, 8):
        config = tiny_config(objective__preset=preset, model__head__dim=4, batch_size=8, optimizer__name="sgd", **texts)
        parts = tiny_parts(config, jax.devices()[:devices])
        state = parts.new_state()
        start = jax.device_get(state.params)
        assert not any(name.startswith(FROZEN) for name in state.params)
        parts.check_frozen(state)
        for step in range(2):
            batch = {name: random_batch(config, step)[name] for name in parts.abstract_batch}
            state, metrics = parts.train_step(state, to_global(batch, parts.mesh))
        found[devices] = (float(metrics["loss"]), jax.device_get(state))
        assert len(parts.frozen_memory) > len(parts.frozen.arrays) + 2 * bool(texts)  # head and text side
        for name, value in parts.frozen_memory.items():
            np.testing.assert_array_equal(found[devices][1].memory[name], value)
        if preset == "seed":  # features of the first view of both batches
            queue = found[devices][1].memory["queue/frozen_z"]
            np.testing.assert_allclose(np.linalg.norm(queue, axis=1), np.arange(len(queue)) < 16, rtol=1e-5)
        assert any(np.abs(value - start[name]).max() > 0 for name, value in found[devices][1].params.items())
    for loss, state in found.values():
        assert loss == pytest.approx(found[1][0], rel=1e-5)
        for name, value in found[1][1].params.items():
            np.testing.assert_allclose(state.params[name], value, atol=2e-5, err_msg=name)


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
def test_a_run_learns_from_the_texts_of_a_finished_run_and_goes_on_bit_for_bit(tmp_path):
    """Teacher and student differ in width; of two checkpoints of the student the last one is lost."""

    def run(name, **changes):
        config = tiny_config(steps=2, eval__suite="none", checkpoint__every=1, **TEXTS, **changes)
        train(config, tmp_path / name)
        place, step = find_checkpoint(tmp_path / name)
        assert step == 2
        return read_arrays(place, step, saved_arrays(place, step, ("params", "memory")), sharding=None)

    run("teacher", objective__preset="clip")
    student = {"objective__preset": "distill_clip", "objective__frozen": str(tmp_path / "teacher")}
    first = run("student", model__head__dim=6, **student)
    teacher = load_encoder(tmp_path / "teacher")
    for name in ("encoder/", "head/", "text/"):
        assert any(path.startswith(FROZEN + name) for path in first["memory"])
    for path, value in teacher.sides.items():
        if path.startswith(("head/", "text/")):
            np.testing.assert_array_equal(first["memory"][FROZEN + path], value)
    shutil.rmtree(tmp_path / "student" / "checkpoints" / "2")
    (tmp_path / "student" / EVALUATION).unlink()
    again = run("student", model__head__dim=6, **student)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    sides = {path: value + path.startswith("text/") for path, value in teacher.sides.items()}
    other = parts_of_teacher(PRESETS["distill_clip"].objective, dataclasses.replace(teacher, sides=sides))
    assert frozen_memory(other)[FINGERPRINT] != first["memory"][FINGERPRINT]  # of another text side


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
        ({"preset": "simclr", "terms": ({"graph": {"source": "frozen_pair"}},)}, "graph.source", "and a text side"),
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

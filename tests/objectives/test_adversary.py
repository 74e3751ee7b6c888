"""What climbs: losses, optimizer and schedule against independent formulas, its place in the step, devices, faults."""

import dataclasses
import functools
import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from tests.lives import differences
from tests.objectives.synthetic import LinearEncoder
from tests.quick import quick_jit
from tests.test_resume import run_on
from tests.tiny import random_batch, run_steps, tiny_config, tiny_parts
from xsample_jax.augment.differentiable import augment_differentiably, planes_of
from xsample_jax.config.check import find_problems
from xsample_jax.errors import ConfigError
from xsample_jax.io.run_dir import read_history
from xsample_jax.metrics.jsonl import read_jsonl
from xsample_jax.models import towers
from xsample_jax.objectives import adversary as adversary_module
from xsample_jax.objectives.adversary import (
    ADVERSARY,
    MOMENTS,
    UPDATES,
    Adversary,
    Guests,
    Opponent,
    condition_of,
    conditions_of,
    descended,
    ramped,
    take_turn,
)
from xsample_jax.objectives.cross_entropy import PULLS
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.sharding import to_global

KINDS = ("hard", "pair")


@pytest.fixture
def linear(monkeypatch):
    monkeypatch.setitem(towers.ENCODERS, "resnet18", lambda config, rngs: LinearEncoder(rngs))


def config_with(kind, preset="simclr", **changes):
    own = {"start": 0.2, "ramp": 0.4, "width": 4, "latent": 8} | {
        name.removeprefix("generator__"): changes.pop(name) for name in list(changes) if name.startswith("generator__")
    }
    own = {f"objective__generator__{name}": value for name, value in own.items()}
    return tiny_config(objective__preset=preset, objective__generator__kind=kind, **own, **changes)


def trained(config, devices=1, steps=3):
    return run_steps(config, devices, steps)


OF_KIND = {"hard": "simclr", "pair": "xclr"}


@functools.cache
def five_steps(kind, devices):
    """(parts, memory, history): its generators are not used in three steps, a little in the next, and then in full."""
    preset = OF_KIND[kind or "hard"]
    start = {"generator__start": 0.5, "generator__ramp": 0.3} if kind else {}
    build = config_with if kind else lambda kind, preset, **changes: tiny_config(objective__preset=preset, **changes)
    config = build(kind, preset, steps=5, faults__non_finite="skip", **start)
    parts, state, history = trained(config, devices, 5)
    return parts, {name: np.asarray(value) for name, value in state.memory.items()}, history


# The formulas, without a step around them.


def small(kind="hard", reads=(), **options):
    options = {"kind": kind, "start": 0.0, "ramp": 0.0, "weight": 1.0, "updates": 1, "rate": 0.02} | options
    options |= {"latent": 6, "width": 4}
    return Adversary(types.SimpleNamespace(**options), 4, 10, 8, 3, reads, 32 * len(reads), 3, "auto")


class Mute(Adversary):
    """An adversary whose discriminator has no opinion: what is left is how hard its images are."""

    def judge(self, state, planes, condition):
        return 0.0 * jnp.sum(planes, axis=(1, 2, 3))


def batch_of(count=10, size=8, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": jnp.asarray(rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)),
        "id": jnp.asarray(rng.permutation(100)[:count].astype(np.int32)),
        "label": jnp.asarray(rng.integers(0, 3, count).astype(np.int32)),
    }


WEIGHTS = np.random.default_rng(9).normal(size=(8 * 8 * 3, 5)).astype(np.float32)


def embed(images):
    z = (images / 255 - 0.5).reshape(len(images), -1) @ WEIGHTS
    return z / jnp.linalg.norm(z, axis=-1, keepdims=True)


def contrast(images, rows):
    """NT-Xent of the image and of its left half, at tau 0.2; a frozen linear encoder."""
    first = images[0].astype(jnp.float32)
    second = images[-1].at[:, :, 4:].set(0.0) if len(images) == 1 else images[1]
    z = jnp.concatenate([embed(first), embed(second)])
    logits = z @ z.T / 0.2
    count = len(first)
    logits = jnp.where(jnp.eye(2 * count, dtype=bool), -jnp.inf, logits)
    own = jnp.roll(jnp.arange(2 * count), count)
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - logits[jnp.arange(2 * count), own])


OPPONENT = Opponent(contrast, embed)


def turn(adversary, memory, batch, progress=1.0, key=0):
    run = quick_jit(lambda memory, batch: _plain(take_turn(
        adversary, memory, batch, jax.random.key(key), jnp.float32(progress), OPPONENT)))  # fmt: skip
    return run(memory, batch)


def _plain(result):
    memory, guests, found = result
    return memory, guests.images, guests.there, found


def climbing(memory, adversary):
    """The entries without their prefix."""
    return {name.removeprefix(ADVERSARY): value for name, value in memory.items()}


def test_hinge_losses_of_both_and_the_accuracy():
    adversary, batch = small(weight=0.0), batch_of()
    memory = adversary.init()
    state, key = climbing(memory, adversary), jax.random.fold_in(jax.random.key(0), 1)

    @quick_jit
    def judged(state, drawn, hiding):
        latents = adversary.latents(jax.random.fold_in(key, drawn), adversary.ids)
        (made,) = adversary.generate(state, latents, None)
        hidden = augment_differentiably(planes_of(made), jax.random.fold_in(key, hiding), adversary.ids)
        return adversary.judge(state, hidden, None)

    @quick_jit
    def judged_real(state):
        real = {name: value[adversary.places] for name, value in batch.items()}
        shown = augment_differentiably(planes_of(real["image"]), jax.random.fold_in(key, 1), real["id"])
        return adversary.judge(state, shown, None)

    of_real, of_made = np.asarray(judged_real(state)), np.asarray(judged(state, 0, 10))
    expected = np.mean([max(0, 1 - s) for s in of_real]) + np.mean([max(0, 1 + s) for s in of_made])
    accuracy = (sum(s > 0 for s in of_real) + sum(s < 0 for s in of_made)) / 8
    new, _, _, found = turn(adversary, memory, batch)
    assert found["discriminator_loss"] == pytest.approx(expected, rel=1e-4)
    assert found["discriminator_accuracy"] == pytest.approx(accuracy)
    # The generator's part is judged by the discriminator that has just learned.
    after = climbing(new, adversary)
    mixed = {name: (after if name.startswith("discriminator/") else state)[name] for name in state}
    assert found["generator_loss"] == pytest.approx(-float(np.mean(judged(mixed, 3, 20))), rel=1e-3)
    assert int(after[UPDATES]) == 1
    assert found["hardness"] == pytest.approx(float(found["loss_generated"] - found["loss_real"]), abs=1e-6)


def test_several_updates_in_a_turn():
    adversary, batch = small(updates=2, weight=0.0, rate=1e-3), batch_of()
    memory = adversary.init()
    new = climbing(turn(adversary, memory, batch)[0], adversary)
    assert int(new[UPDATES]) == 2
    # Update n moves an entry by at most rate * sqrt((1 - b2^n) / (1 - b2)): 1 and 1.41 times the rate.
    moved = max(float(np.abs(new[name] - memory[ADVERSARY + name]).max()) for name in new if name.startswith("first/"))
    assert 1.2e-3 < moved < 2.42e-3


def test_the_hardness_term_alone_raises_the_objective_of_the_same_latents():
    adversary, batch = Mute(**vars(small())), batch_of()
    memory = adversary.init()
    key = jax.random.fold_in(jax.random.key(0), 1)
    latents = adversary.latents(jax.random.fold_in(key, 3), adversary.ids)
    before = contrast(adversary.generate(climbing(memory, adversary), latents, None), {})
    new, _, _, found = turn(adversary, memory, batch)
    after = contrast(adversary.generate(climbing(new, adversary), latents, None), {})
    assert found["loss_generated"] == pytest.approx(float(before), rel=1e-4)
    assert after > before + 0.01
    still = turn(Mute(**vars(small(weight=0.0))), memory, batch)[0]
    for name, value in climbing(still, adversary).items():
        if name.startswith("first/"):  # without weight and without a verdict nothing moves
            np.testing.assert_array_equal(value, memory[ADVERSARY + name], err_msg=name)


def test_the_similarity_term_alone_draws_the_images_of_a_pair_apart_step_by_step():
    adversary, batch = Mute(**vars(small("pair", rate=2e-4))), batch_of()
    memory = adversary.init()
    rng = np.random.default_rng(4)
    for name, value in memory.items():
        if name.startswith(f"{ADVERSARY}first/"):  # both start alike
            np.testing.assert_array_equal(value, memory[name.replace("first", "second")])
        if name.startswith(f"{ADVERSARY}second/"):
            memory[name] = value + 0.02 * rng.normal(size=value.shape).astype(np.float32)
    key = jax.random.key(5)  # the same latents in every turn
    latents = adversary.latents(jax.random.fold_in(jax.random.fold_in(key, 1), 3), adversary.ids)

    def cosine(memory):
        first, second = adversary.generate(climbing(memory, adversary), latents, None)
        return float(jnp.mean(jnp.sum(embed(first) * embed(second), axis=-1)))

    step = quick_jit(lambda memory: take_turn(adversary, memory, batch, key, jnp.float32(1), OPPONENT)[0])
    found = [cosine(memory)]
    for _ in range(20):
        memory = step(memory)
        found.append(cosine(memory))
    assert all(after < before for before, after in itertools.pairwise(found)), found
    assert found[-1] < found[0] - 0.05


def test_the_optimizer_is_adam_without_momentum():
    rng = np.random.default_rng(0)
    params = {"first/a": jnp.asarray(rng.normal(size=(3, 2)), jnp.float32), "first/b": jnp.zeros(4)}
    state = params | {MOMENTS + name: jnp.zeros_like(value) for name, value in params.items()}
    state |= {
        UPDATES: jnp.zeros((), jnp.int32),
        "discriminator/c": jnp.ones(2),
        MOMENTS + "discriminator/c": jnp.ones(2),
    }
    adam = optax.adam(0.01, b1=0.0, b2=0.99, eps=1e-8)
    expected, opt_state = params, adam.init(params)
    for _ in range(3):
        slope = {name: jnp.asarray(rng.normal(size=value.shape), jnp.float32) for name, value in params.items()}
        updates, opt_state = adam.update(slope, opt_state)
        expected = optax.apply_updates(expected, updates)
        state = descended(state, slope, 0.01)
        state[UPDATES] += 1
    for name, value in expected.items():
        np.testing.assert_allclose(state[name], value, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(state["discriminator/c"], np.ones(2))


@pytest.mark.parametrize(
    ("progress", "start", "ramp", "expected"),
    [(0.1, 0.2, 0.4, 0.0), (0.2, 0.2, 0.4, 0.0), (0.3, 0.2, 0.4, 0.25), (0.6, 0.2, 0.4, 1.0), (0.9, 0.2, 0.4, 1.0),
     (0.19, 0.2, 0.0, 0.0), (0.2, 0.2, 0.0, 1.0)],
)  # fmt: skip
def test_the_schedule(progress, start, ramp, expected):
    assert ramped(jnp.float32(progress), start, ramp) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("there", [True, False])
def test_images_take_their_places_and_nothing_else_changes(there):
    adversary, batch = small("pair"), batch_of() | {"caption_embedding": jnp.arange(20.0).reshape(10, 2)}
    assert adversary.places.tolist() == [1, 4, 6, 9]
    images = tuple(jnp.full((4, 8, 8, 3), value) for value in (7.0, 9.0))
    rows = {"id": jnp.asarray(adversary.ids), "label": jnp.full(4, -1)}
    guests = Guests(adversary.places, images, rows, jnp.asarray(there))
    seated = guests.seated(batch)
    assert seated.keys() == batch.keys()
    for row in range(10):
        taken = there and row in (1, 4, 6, 9)
        assert bool((seated["image"][row] == 7).all()) == taken
        assert (int(seated["id"][row]) > 2**31 - 5) == taken
        assert (int(seated["label"][row]) == -1) == taken
        np.testing.assert_array_equal(seated["caption_embedding"][row], batch["caption_embedding"][row])
        if not taken:
            np.testing.assert_array_equal(seated["image"][row], batch["image"][row])
    assert seated["image"].dtype == jnp.uint8

    def make(images, ids, copies):  # three "views" of an image: its first value plus the number of the view
        return (images[:, 0, 0, 0].astype(jnp.float32)[:, None] + jnp.array([0.0, 100.0, 200.0])).reshape(-1)

    made = make(seated["image"], None, None)
    views = guests.other_views(made, make, 3, jnp.zeros(10, jnp.int32)).reshape(10, 3)
    for row in range(10):
        expected = [7, 109, 207] if there and row in (1, 4, 6, 9) else made.reshape(10, 3)[row]
        np.testing.assert_array_equal(views[row], expected)


def test_images_are_made_from_what_the_objective_reads():
    reads = {name: conditions_of(preset.objective) for name, preset in PRESETS.items()}
    assert reads["simclr"] == ()
    assert reads["xclr"] == ("caption_embedding",)
    assert reads["supcon"] == ("label",)
    assert reads["xclr_class_text"] == ("label",)
    assert reads["clip"] == ("caption_tokens",)
    batch = {
        "label": jnp.array([3, -1, 3, 4]),
        "path": jnp.array([[0, 1, 3], [0, 1, 3], [1, 0, 3], [-1, -1, -1]]),
        "caption_tokens": jnp.array([[1, 5, 6, 2, 0], [1, 6, 5, 2, 0], [1, 5, 2, 0, 0], [0, 0, 0, 0, 0]]),
        "caption_embedding": jnp.array([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0], [0.6, 0.8]], jnp.float16),
    }
    code = {name: np.asarray(condition_of(batch, (name,))) for name in batch}
    same = {name: [float(np.abs(rows[0] - rows[other]).max()) for other in (1, 2, 3)] for name, rows in code.items()}
    assert same["label"][1] == 0 < min(same["label"][0], same["label"][2])
    assert not code["label"][1].any()
    assert same["path"][0] == 0 < min(same["path"][1:])
    assert same["caption_tokens"][0] < 1e-6 < min(same["caption_tokens"][1:])
    assert not code["caption_tokens"][3].any()
    np.testing.assert_allclose(code["caption_embedding"][[0, 3]], [[0.6, 0.8]] * 2, atol=1e-3)
    both = np.asarray(condition_of(batch, ("caption_embedding", "label")))
    np.testing.assert_array_equal(both, np.concatenate([code["caption_embedding"], code["label"]], axis=1))
    assert condition_of(batch, ()) is None


# In a step.


@pytest.mark.parametrize("preset", ["simclr", "xclr"])
def test_without_a_share_the_step_is_the_plain_one(linear, preset):
    plain = tiny_parts(tiny_config(objective__preset=preset), jax.devices()[:1])
    for changes in ({"kind": "hard", "share": 0.0}, {"kind": None, "share": 0.5}):
        changes = {f"objective__generator__{name}": value for name, value in changes.items()}
        parts = tiny_parts(tiny_config(objective__preset=preset, **changes), jax.devices()[:1])
        assert parts.abstract_state == plain.abstract_state
        program, expected = (p.train_step.lower(p.abstract_state, p.abstract_batch).as_text() for p in (parts, plain))
        assert program == expected


def test_before_its_start_the_encoder_learns_as_without_it(linear):
    _, _, plain = five_steps(None, 1)
    _, memory, history = five_steps("hard", 1)
    weights = [line["generator_weight"] for line in history]
    assert weights[:3] == [0, 0, 0]
    assert 0 < weights[3] < weights[4] == pytest.approx(0.1)
    for a, b in zip(plain[:3], history[:3], strict=True):  # the third is the loss of parameters that learned twice
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-6)
    assert plain[4]["loss"] != pytest.approx(history[4]["loss"], rel=1e-3)
    assert any("first/" in name and np.abs(value).max() > 0 for name, value in memory.items())
    assert int(memory[ADVERSARY + UPDATES]) == 5  # it learns from the first step on
    # Generated images have positives: 8 rows, of which 7 compete, cannot all be told apart at once.
    assert all(line["loss_generated"] > 1e-3 for line in history)


@pytest.mark.slow
def test_the_same_on_one_and_on_eight_devices(linear):
    """Of a pair, which has all that one generator has, and more."""
    (_, one, expected), (_, eight, history) = five_steps("pair", 1), five_steps("pair", 8)
    for a, b in zip(expected, history, strict=True):
        assert a.keys() - set(PULLS) == b.keys() - set(PULLS)  # a streamed loss does not tell these
        for name in ("loss", "loss_real", "loss_generated", "discriminator_loss", "generator_loss"):
            assert a[name] == pytest.approx(b[name], rel=2e-4, abs=2e-5), name
    for name, value in one.items():
        if name.startswith(ADVERSARY):
            np.testing.assert_allclose(eight[name], value, rtol=1e-2, atol=4e-3, err_msg=name)


@pytest.mark.slow
def test_stopped_and_resumed_it_is_bit_for_bit_the_same(linear, monkeypatch, tmp_path, capsys):
    """Its images are drawn and their diversity is logged meanwhile, and a collapse is a warning."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    times = {"generator__start": 0.3, "generator__ramp": 0.3, "generator__sheet_every": 4}
    config = config_with("pair", steps=6, checkpoint__every=100, **times)
    run_on(monkeypatch, 1, config, whole)
    warned = [line for line in capsys.readouterr().err.splitlines() if "generated images are alike" in line]
    assert len(warned) == 1  # not at every sheet
    run_on(monkeypatch, 1, config, stopped, stop_after=3)
    run_on(monkeypatch, 1, config, stopped)
    assert differences(whole, stopped) == (0, [])
    logged = {"loss_real", "loss_generated", "hardness", "discriminator_accuracy", "pair_cosine", "generator_weight"}
    for folder in (whole, stopped):
        lines = read_jsonl(folder / "metrics.jsonl")
        assert [line["step"] for line in lines if "loss" in line] == list(range(1, 7))
        assert all(logged <= line.keys() for line in lines if "loss" in line)
        sheets = sorted((folder / "generated").iterdir())
        assert [path.name for path in sheets] == ["00000004.png", "00000006.png"]
        image = np.asarray(Image.open(sheets[0]).convert("RGB"))
        assert len(np.unique(image.reshape(-1, 3), axis=0)) > 100
        lines = [line for line in lines if "generator/ms_ssim_real" in line]
        assert [line["step"] for line in lines] == [4, 6]
        # Two untrained generators: their images are more alike than emoji are.
        assert 0 <= lines[0]["generator/ms_ssim_real"] < 0.15 < lines[0]["generator/ms_ssim_generated"] <= 1
        events = [event["step"] for event in read_history(folder) if event["event"] == "the generator collapsed"]
        assert events == [4]


OTHERS = ("supcon", "clip", "clip_frozen_text", "xclr_class_text", "moco", "byol", "swav", "simlap", "siglip", "nnclr")


@pytest.mark.parametrize(("preset", "kind"), list(zip(OTHERS, itertools.cycle(KINDS))))
def test_it_goes_with_every_kind_of_objective(linear, preset, kind):
    queue = {"objective__queue": 32} if PRESETS[preset].objective.queue else {}
    layers = 1 if PRESETS[preset].objective.text == "transformer" else 0
    parts = tiny_parts(config_with(kind, preset, model__text__layers=layers, **queue), jax.devices()[:1])
    state, metrics = jax.eval_shape(parts.train_step, parts.abstract_state, parts.abstract_batch)
    assert jax.tree.structure(state) == jax.tree.structure(parts.abstract_state)
    assert metrics["loss_generated"].shape == ()


def test_a_generator_that_is_not_finite_is_a_step_that_is_not_finite(linear):
    parts, _, _ = five_steps("hard", 1)
    state = parts.new_state()
    name = next(name for name in state.memory if name.startswith(f"{ADVERSARY}first/"))
    state = dataclasses.replace(state, memory=state.memory | {name: jnp.full_like(state.memory[name], jnp.nan)})
    before = {path: np.asarray(value) for path, value in state.params.items()}
    batch = {name: random_batch(parts.config)[name] for name in parts.abstract_batch}
    state, metrics = parts.train_step(state, to_global(batch, parts.mesh))
    assert not bool(metrics["finite"])
    assert np.isfinite(metrics["loss"])  # its images are not in the batch yet
    for path, value in before.items():
        np.testing.assert_array_equal(state.params[path], value)


def test_the_control_has_augmented_images_of_the_batch_and_no_networks(linear):
    batch = batch_of()
    control = small("augmented")
    memory, images, there, found = turn(control, control.init(), batch)
    assert memory.keys() == {ADVERSARY + UPDATES}
    assert images[0].shape == (4, 8, 8, 3)
    assert bool(there)
    values = np.asarray(images[0])
    assert (values == np.clip(np.rint(values), 0, 255)).all()
    holes = (np.abs(values - 127.5) < 1).all(axis=-1).mean(axis=(1, 2))
    assert (holes >= 1 / 16).all()  # the cutout, and the border that a shift leaves
    assert found["hardness"] == pytest.approx(float(found["loss_generated"] - found["loss_real"]), abs=1e-6)
    _, state, _ = trained(config_with("augmented", "supcon", generator__start=0.0, steps=3), steps=2)
    assert [name for name in state.memory if name.startswith(ADVERSARY)] == [ADVERSARY + UPDATES]


# Bad input.


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("objective.generator.share", {"share": 0.05}),
        ("objective.generator.share", {"share": 0.99}),
        ("objective.generator.share", {"share": 1.0}),
        ("objective.generator.share", {"share": -0.1}),
        ("objective.generator.kind", {"kind": "soft"}),
        ("objective.generator.ramp", {"start": 0.6, "ramp": 0.5}),
        ("objective.generator.updates", {"updates": 0}),
        ("objective.generator.kind", {"preset": "sogclr"}),
        ("objective.generator.kind", {"preset": "amcl_barlow_twins", "share": 0.5}),
        ("views", {"kind": "pair", "preset": "supcon", "views": 1}),
        ("data.image_size", {"data.image_size": 36}),
    ],
)
def test_what_cannot_be_is_refused_by_name(field, changes):
    config = tiny_config(objective__preset="simclr").copy_and_resolve_references()
    config.unlock()
    changes = {"kind": "hard"} | changes
    config.objective.preset = changes.pop("preset", "simclr")
    config.views = changes.pop("views", 2)
    config.data.image_size = changes.pop("data.image_size", 32)
    values = config.to_dict()
    values["objective"]["generator"].update(changes)
    problems = find_problems(values)
    assert field in [problem.field for problem in problems]
    assert all(isinstance(problem, ConfigError) for problem in problems)
    values["objective"]["generator"]["kind"] = None  # what nobody reads is only looked at alone
    assert not [p for p in find_problems(values) if p.field in ("data.image_size", "objective.generator.kind")]


def test_docstring_says_whose_equations_these_are():
    assert "ours" in adversary_module.__doc__
    assert "2202.06464" in adversary_module.__doc__

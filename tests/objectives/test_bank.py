"""The bank of all images against plain numpy: its rows, k-means on it, and clusters that follow the training."""

import dataclasses
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives.test_build import problems
from tests.quick import quick_jit
from tests.tiny import random_batch, run_steps, tiny_config, tiny_parts
from xsample_jax import loop
from xsample_jax.errors import CheckpointError, ConfigError
from xsample_jax.evals.clusters import subclass_counts as subclass_sizes
from xsample_jax.evals.clusters import temperatures_of
from xsample_jax.objectives.bank import (
    ASSIGNED,
    LABEL,
    OF_CLASSES,
    ROWS,
    Bank,
    Clusters,
    check_clusters,
    clusters_of,
    first_centers,
    init_bank,
    kmeans,
    remember,
    renew_clusters,
    subclass_counts,
)
from xsample_jax.objectives.cluster_centers import CENTER, init_centers
from xsample_jax.objectives.from_config import build_objective
from xsample_jax.objectives.learned_state import init_memory, push, queue_blocks
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.sharding import make_mesh, row_axes, to_global

KEY = jax.random.key(3)
RENEWED = {"objective__clusters__k": (3, 5), "objective__clusters__start": 2, "objective__clusters__every": 2}


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def groups(count, k, width=16, noise=0.02, seed=0):
    """Unit rows [count, width] around k points, and the point of each."""
    rng = np.random.default_rng(seed)
    points, own = unit(rng.normal(size=(k, width))), rng.integers(0, k, count)
    return unit(points[own] + noise * rng.normal(size=(count, width))).astype(np.float32), own


def bank_of(z, dtype="float32"):
    """The rows of a bank in which the first images have been seen."""
    return init_bank(Bank(dtype=dtype), None, len(z), z.shape[1])[ROWS].at[: len(z)].set(z.astype(dtype))


# Rows.


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_row_is_the_unit_average_of_what_its_image_was(dtype):
    rng, momentum = np.random.default_rng(1), 0.7
    memory, mirror = init_bank(Bank(momentum, dtype), None, 9, 4), {}
    assert memory[ROWS].shape == (4096, 4)
    step = quick_jit(lambda rows, index, z: remember({ROWS: rows}, {"index": index}, z, momentum)[ROWS])
    for index in ([0, 3, 8], [3, 5, 3], [3, 8, 1]):  # image 3 is in the second batch twice
        z = unit(rng.normal(size=(3, 4))).astype(np.float32)
        memory = {ROWS: step(memory[ROWS], jnp.asarray(index), jnp.asarray(z))}
        for place, row in reversed(list(zip(index, z, strict=True))):
            new = unit(momentum * mirror[place] + (1 - momentum) * row) if place in mirror else row
            mirror |= {("next", place): new}
        mirror |= {place[1]: mirror.pop(place) for place in [key for key in mirror if isinstance(key, tuple)]}
    found, tolerance = np.asarray(memory[ROWS], np.float32), 1e-6 if dtype == "float32" else 1e-2
    for place, row in mirror.items():
        np.testing.assert_allclose(found[place], row, atol=tolerance)
    assert not np.delete(found, list(mirror), axis=0).any()


# k-means.


def kmeans_in_numpy(z, centers, iterations):
    """k-means by cosine in float64: (clusters, centers, mean distances, sizes)."""
    z, centers = np.float64(z), np.float64(centers)
    for _ in range(iterations):
        own = np.argmax(z @ centers.T, axis=1)
        for c in np.unique(own):
            centers[c] = unit(z[own == c].sum(axis=0))
    own = np.argmax(z @ centers.T, axis=1)
    apart = np.linalg.norm(z - centers[own], axis=1)
    distance = [apart[own == c].mean() if (own == c).any() else 0 for c in range(len(centers))]
    return own, centers, np.array(distance), np.bincount(own, minlength=len(centers))


@pytest.mark.parametrize("k", [7, 150])  # 150: several first centers are drawn at once
def test_kmeans_is_that_of_numpy_from_the_same_centers(k):
    z, _ = groups(1500, 12, noise=0.2)
    z[700] = 0  # an image that was not seen yet
    start, there = quick_jit(lambda z: first_centers(z, k, KEY, None))(bank_of(z))
    assert there.all()
    assert len(np.unique(np.asarray(start), axis=0)) == k  # rows, each once
    found = quick_jit(lambda z: kmeans(z, k, 4, KEY))(bank_of(z))
    own, centers, distance, sizes = kmeans_in_numpy(np.delete(z, 700, axis=0), start, 4)
    cluster = np.asarray(found.cluster)
    assert (cluster[[700, *range(1500, 4096)]] == -1).all()
    assert np.mean(np.delete(cluster[:1500], 700) == own) > 0.995  # but for rows between two centers
    np.testing.assert_allclose(found.centers, centers, atol=2e-3 if k == 7 else 2e-2)
    np.testing.assert_allclose(found.rows, sizes, atol=3)
    np.testing.assert_allclose(found.distance, distance, atol=3e-3 if k == 7 else 2e-2)


def test_the_first_centers_are_in_all_groups_and_kmeans_finds_them():
    z, own = groups(2000, 12)
    start, _ = quick_jit(lambda z: first_centers(z, 12, KEY, None))(bank_of(z))
    rows = [int(np.argmax(z @ np.asarray(center))) for center in start]
    assert set(own[rows]) == set(range(12))  # by chance, one draw in 19,000 has all of them
    found = np.asarray(quick_jit(lambda z: kmeans(z, 12, 3, KEY))(bank_of(z)).cluster[:2000])
    assert len(set(zip(found, own, strict=True))) == 12  # the groups, by other names


def test_fewer_rows_than_clusters_and_rows_that_are_all_alike():
    for z in (np.eye(4, dtype=np.float32), np.tile(unit(np.ones((1, 4), np.float32)), (9, 1))):
        found = quick_jit(lambda z: kmeans(z, 6, 2, KEY))(bank_of(z))
        assert (np.asarray(found.cluster[: len(z)]) >= 0).all()
        assert found.rows.sum() == len(z)
        assert np.isfinite(found.centers).all()
    assert quick_jit(lambda z: kmeans(z, 6, 2, KEY))(bank_of(np.zeros((3, 4), np.float32))).rows.sum() == 0


@pytest.mark.parametrize(("dtype", "count"), [("float32", 2), ("float32", 6), ("bfloat16", 8)])
def test_the_same_bank_has_the_same_clusters_on_any_devices(dtype, count):
    z, _ = groups(3000, 20, noise=0.3)
    axes = {2: {}, 6: {"mesh__fsdp": 3}, 8: {"mesh__fsdp": 2, "mesh__tensor": 2}}[count]  # 6 do not divide the rows
    mesh = make_mesh(tiny_config(**axes).mesh, 24, jax.devices()[:count])
    whole, split = (
        jax.device_get(quick_jit(lambda z, mesh=mesh: kmeans(z, 20, 5, KEY, mesh))(bank_of(z, dtype)))
        for mesh in (None, mesh)
    )
    for one, other in zip(whole, split, strict=True):
        np.testing.assert_array_equal(one, other)


# Subclasses.


def test_subclasses_and_temperatures_are_those_of_tools_cluster():
    """Of SBCL, whose published numbers tests/evals/test_clusters.py holds."""
    rng = np.random.default_rng(2)
    label = rng.permutation(np.repeat([-1, 1, 2, 4], [5, 12, 60, 300]))  # 0, 3 and 5 have no image
    z = unit(rng.normal(size=(377, 8)) + 2 * np.eye(8)[label % 8] * (label[:, None] == 2)).astype(np.float32)
    clusters = Clusters((40,), every=1, start=1, iterations=30, by_class=True, classes=6)
    memory = init_bank(Bank(), clusters, 377, 8)
    renewed = quick_jit(lambda memory: renew_clusters(clusters, memory, jnp.int32(1), KEY, None))
    memory |= remember(memory, {"index": jnp.arange(377), "label": jnp.asarray(label)}, jnp.asarray(z), 0.0)
    new = jax.device_get(renewed(memory))
    own = new[ASSIGNED][:377, 0]
    assert (own[label == -1] == -1).all()
    found = [sorted(set(own[label == c])) for c in (1, 2, 4)]
    assert [len(one) for one in found] == subclass_sizes(np.array([12, 60, 300])).tolist() == [1, 5, 25]
    assert found == [[0], list(range(1, 6)), list(range(6, 31))]
    for c in (2, 4):
        for one in set(own[label == c]):  # every image is in the nearest subclass of its class
            centers = np.stack([unit(z[own == other].sum(axis=0)) for other in sorted(set(own[label == c]))])
            members = z[own == one] @ centers.T
            assert np.mean(np.argmax(members, axis=1) == one - min(own[label == c])) > 0.9
    expected = np.ones(6)
    expected[[1, 2, 4]] = [temperatures_of(z, label)[label == c][0] for c in (1, 2, 4)]
    np.testing.assert_allclose(new[OF_CLASSES], expected, rtol=1e-3)
    few, _ = subclass_counts(memory[LABEL], 6, 16)  # no more than fit
    assert few.tolist() == [0, 1, 1, 0, 7, 0]  # of 38 images, 372 / (16 - 6)


@pytest.mark.usefixtures("linear_encoder")
def test_sbcl_is_supcon_until_there_are_subclasses():
    late = {"clusters__k": (8,), "clusters__start": 2, "clusters__every": 2, "clusters__by_class": True}
    config = tiny_config(objective__preset="sbcl", **{f"objective__{name}": value for name, value in late.items()})
    parts = tiny_parts(config, jax.devices()[:1])
    parts.__dict__["facts"] = dataclasses.replace(parts.facts, classes=5)
    assert parts.objective.requires == {"label", "index"}
    state, losses = parts.new_state(), []
    for step in range(4):
        batch = {name: random_batch(config, step)[name] for name in parts.abstract_batch}
        state, metrics = parts.train_step(state, to_global(batch, parts.mesh))
        losses.append(float(metrics["loss"]))
    supcon = run_steps(tiny_config(objective__preset="supcon"), 1, 1)[2][0]["loss"]
    assert losses[0] == pytest.approx(1.25 * supcon, rel=1e-6)
    assert np.isfinite(losses).all()
    assert len(np.unique(state.memory[ASSIGNED])) > 5


# Clusters that follow the training.


def test_clusters_are_renewed_when_they_are_due_with_the_centers_of_their_rows():
    z, _ = groups(300, 6, noise=0.1)
    clusters = Clusters((4, 6), every=3, start=2, iterations=20)
    memory = init_bank(Bank(), clusters, 300, 16) | init_centers((2, 6), 16) | {ROWS: bank_of(z)}
    renewed = quick_jit(
        lambda memory, step: renew_clusters(clusters, memory, step, jax.random.fold_in(KEY, step), None)
    )
    for step in (0, 1, 3, 4):
        new = renewed(memory, step)
        for name, value in memory.items():
            np.testing.assert_array_equal(new[name], value, err_msg=name)
    for step in (2, 5):
        new = jax.device_get(renewed(memory, step))
        np.testing.assert_array_equal(new[ROWS], memory[ROWS])
        assert (new[ASSIGNED][300:] == -1).all()
        for number, k in enumerate(clusters.k):
            own = new[ASSIGNED][:300, number]
            assert set(own) == set(range(k))
            for c in range(k):
                members = z[own == c]
                center = unit(members.sum(axis=0))
                np.testing.assert_allclose(new[CENTER + "z"][number, c], center, atol=5e-3)
                apart = np.linalg.norm(members - new[CENTER + "z"][number, c], axis=1)
                assert new[CENTER + "distance"][number, c] == pytest.approx(apart.mean(), abs=1e-3)
                assert new[CENTER + "rows"][number, c] == len(members)
    assert not new[CENTER + "rows"][0, 4:].any()  # the first clustering has four


def test_an_image_without_a_cluster_is_one_of_its_own():
    clusters = Clusters((3, 5))
    memory = {ASSIGNED: jnp.array([[2, 4], [-1, -1], [-1, -1], [0, 0]])}
    side = {"index": jnp.array([2, 0, 1, 2]), "label": jnp.array([8, 8, 8, -1])}
    found = clusters_of(memory, side, clusters)["cluster"]
    assert found.tolist() == [[6, 6], [2, 4], [5, 5], [6, 6]]  # the number of rows and the index
    by_class = Clusters((3, 5), by_class=True, classes=9)
    found = clusters_of(memory | {OF_CLASSES: jnp.arange(9) + 0.5}, side, by_class)
    assert found["cluster"].tolist() == [[12, 12], [2, 4], [12, 12], [15, 15]]
    assert found["class_temperature"].tolist() == [8.5, 8.5, 8.5, 1]


def test_the_clusters_of_a_queue_are_those_of_today():
    objective = dataclasses.replace(PRESETS["interclr"].objective, queue=4, bank=Bank(), clusters=Clusters((3,)))
    side = {"index": jax.ShapeDtypeStruct((2,), jnp.int32)}
    memory = init_memory(objective, {}, 4, 8, side, (1, 3))
    z = jnp.eye(4)[:2]
    memory |= push(memory, {"z": z, "index": jnp.array([5, 2]), "filled": jnp.ones(2, bool)})
    for cluster in (1, 2):
        memory[ASSIGNED] = memory[ASSIGNED].at[5].set(cluster)
        assert queue_blocks(objective, memory)["queue"]["cluster"][:2, 0].tolist() == [cluster, 4096 + 2]


@pytest.mark.usefixtures("linear_encoder")
def test_clusters_of_a_run_are_the_same_on_1_and_8_devices():
    config = tiny_config(objective__preset="pcl", objective__queue=32, **RENEWED)
    found = [run_steps(config, devices, 5) for devices in (1, 8)]
    (_, one, before), (parts, other, after) = found
    assert not {"cluster"} & set(parts.abstract_batch)
    np.testing.assert_allclose([m["loss"] for m in before], [m["loss"] for m in after], rtol=1e-4, atol=1e-6)
    assert len(before) == 5
    assert all(np.isfinite(m["loss"]) for m in before)
    assert all(m["gradient_norm"] > 0 for m in before[1:])
    np.testing.assert_array_equal(one.memory[ASSIGNED], other.memory[ASSIGNED])
    seen = np.unique([random_batch(parts.config, step)["index"] for step in range(4)])  # at the renewal of step 4
    assert set(np.flatnonzero(np.asarray(one.memory[ASSIGNED])[:, 0] >= 0)) == set(seen)
    for name in (ROWS, ASSIGNED):
        (shard, *_) = other.memory[name].addressable_shards
        assert shard.data.shape[0] == 4096 // 8


@pytest.mark.usefixtures("linear_encoder")
def test_before_the_first_clustering_cluster_dcl_is_dcl_with_every_image_apart():
    """MEOW's first term with clusters of one image is DCL + log M, from which training starts."""
    late = {"objective__clusters__k": (3, 5, 4), "objective__clusters__start": 9, "views": 2}
    config = tiny_config(objective__preset="cluster_dcl", **late)
    _, _, (with_bank, *_) = run_steps(config, 1, 1)
    parts = tiny_parts(tiny_config(objective__preset="cluster_dcl", views=2), jax.devices()[:1])
    batch = random_batch(parts.config) | {"cluster": np.tile(np.arange(parts.config.batch_size)[:, None], (1, 3))}
    batch["cluster"] = batch["cluster"].astype(np.int32)
    batch = {name: batch[name] for name in parts.abstract_batch}
    _, metrics = jax.jit(parts.train_step.__wrapped__)(parts.new_state(), to_global(batch, parts.mesh))
    assert with_bank["loss"] == pytest.approx(float(metrics["loss"]), rel=1e-6)


def test_mistakes_are_named_with_their_fix():
    sections = {"clusters": {"k": (4,)}, "bank": {}}
    (problem,) = problems(preset="simclr", **sections)
    assert (problem.field, "pcl" in str(problem)) == ("objective.clusters.k", True)
    (problem,) = problems(preset="pcl", bank={"momentum": 0.5})
    assert (problem.field, "clusters.k" in str(problem)) == ("objective.bank.momentum", True)
    (problem,) = problems(preset="pcl", clusters={"k": (4,)}, bank={"momentum": 0.95, "dtype": "bfloat16"})
    assert (problem.field, "float32" in str(problem)) == ("objective.bank.momentum", True)
    config = tiny_config(objective__preset="pcl", objective__queue=32, objective__clusters__k=(4, 100))
    objective = build_objective(config.objective)
    check_clusters(objective.clusters, 100, 7)
    with pytest.raises(ConfigError, match=r"clusters\.k = \(4, 100\): expected at most 99"):
        check_clusters(objective.clusters, 99, 7)
    of_classes = dataclasses.replace(objective, clusters=Clusters((8,), by_class=True))
    check_clusters(of_classes.clusters, 99, 7)
    for classes, field in ((8, "k"), (0, "by_class")):
        with pytest.raises(ConfigError, match=rf"objective\.clusters\.{field} = "):
            check_clusters(of_classes.clusters, 99, classes)
    for name, value in (("every", 9), ("start", 9), ("iterations", 3), ("by_class", True)):
        (problem,) = problems(preset="pcl", clusters={"k": (), name: value})
        assert (problem.field, "clusters.k" in str(problem)) == (f"objective.clusters.{name}", True)
    (problem,) = problems(preset="supcon", terms=({"graph": "cluster"},), graph="label", clusters={"k": (4,)})
    assert problem.field == "objective.clusters.k"
    of_file = {"data__side": ({"name": "cluster", "file": "of_no_use.npz"},)}
    with pytest.raises(ConfigError, match=r"data\.side\[0\]\.name.*clusters\.k='\(\)'"):
        tiny_config(objective__preset="cluster_dcl", objective__clusters__k=(4,), **of_file)
    for name, value, wanted in (("k", (1,), ">= 2"), ("every", 0, ">= 1"), ("start", 0, ">= 1")):
        with pytest.raises(ConfigError, match=f"objective.clusters.{name}.*{wanted}"):
            tiny_config(objective__preset="meow", **{f"objective__clusters__{name}": value})
    with pytest.raises(ConfigError, match=r"objective\.generator\.kind.*remembers every image"):
        tiny_config(objective__preset="cluster_dcl", objective__clusters__k=(4,), objective__generator__kind="hard")


def test_a_graph_of_clusters_has_them_whoever_names_it():
    config = tiny_config(objective__preset="supcon", objective__graph="cluster", objective__clusters__k=(4,))
    assert build_objective(config.objective).clusters == Clusters((4,))


def test_a_bank_is_split_over_the_axes_with_the_most_devices():
    for shape, axes in (((2, 4, 1), 8), ((3, 1, 2), 2), ((6, 1, 1), 1), ((3, 2, 1), 2), ((1, 1, 1), 1)):
        mesh = make_mesh(tiny_config(mesh__data=shape[0], mesh__fsdp=shape[1], mesh__tensor=shape[2]).mesh,
                         math.prod(shape), jax.devices()[: math.prod(shape)])  # fmt: skip
        assert math.prod(mesh.shape[name] for name in row_axes(4096, mesh)) == axes


@pytest.mark.usefixtures("linear_encoder")
def test_a_bank_of_other_images_is_not_gone_on_with(tmp_path, monkeypatch):
    """Its arrays have the shapes of the bank of any dataset of about as many images."""
    monkeypatch.setattr(loop, "write_report", lambda runs, path: None)
    half = {"objective__preset": "cluster_dcl", "objective__clusters__k": (4,), "objective__clusters__start": 1}
    half |= {"data__fraction": 0.5, "eval__suite": "none"}
    loop.train(tiny_config(steps=2, **half), tmp_path / "run")
    again = {"checkpoint__resume_from": str(tmp_path / "run"), "steps": 3}
    for other in ({"seed": 5}, {"data__fraction": 0.4}, {"data__split": "val"}):
        with pytest.raises(CheckpointError, match=r"images of the checkpoint.*something for every image"):
            loop.train(tiny_config(**half | again | other), tmp_path / "other")
        shutil.rmtree(tmp_path / "other")
    loop.train(tiny_config(**half | again), tmp_path / "same")
    with pytest.raises(ConfigError, match=r"clusters\.start = 2: expected a step below 2"):
        loop.train(tiny_config(steps=2, **half | {"objective__clusters__start": 2}), tmp_path / "never")

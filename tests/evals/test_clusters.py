"""Clusters of a split: pseudo-labels and subclasses of published code, and the side files that tools.cluster writes."""

import numpy as np
import pytest

from tests.objectives.test_goldens import CASES
from tests.tools.test_evaluate import save_run
from xsample_jax.config import load_config
from xsample_jax.data.dataset import open_dataset
from xsample_jax.data.side import read_side, write_side
from xsample_jax.data.sources import open_source
from xsample_jax.errors import BAD_INPUT, FINISHED, ConfigError
from xsample_jax.evals.clusters import (
    by_record,
    class_temperatures,
    clusterings,
    k_means,
    subclass_counts,
    subclasses,
    temperatures_of,
    with_digit,
    without_small,
)
from xsample_jax.evals.features import Features
from xsample_jax.models import resnet
from xsample_jax.tools.cluster import main


def test_pseudo_labels_are_the_digits_of_the_stages():
    case = CASES["MCL: batches of one pseudo-label"]
    stage0, stage1 = (np.array(case["extra"][name], np.int32) for name in ("stage0", "stage1"))
    assert with_digit(stage0, stage1, case["extra"]["clusters"]).tolist() == case["also"]["pseudo_labels"]
    assert with_digit(np.array([-1, 0, 2]), np.array([1, -1, 1]), 3).tolist() == [-1, -1, 7]
    with pytest.raises(ConfigError, match="below 2"):
        with_digit(np.array([2**30]), np.array([0]), 3)


def test_small_clusters_can_be_left_out():
    given = np.array([[0, 1], [0, 2], [3, 1], [0, -1]], np.int32)
    assert without_small(given, 2).tolist() == [[0, 1], [0, -1], [-1, 1], [0, -1]]
    assert without_small(given[:, 0], 1).tolist() == [0, 0, 3, 0]


def test_subclasses_and_temperatures_of_classes():
    case = CASES["SBCL: number of subclasses and temperature of a class"]
    sizes, counts = np.array(case["extra"]["class_sizes"]), np.array(case["extra"]["subclasses"])
    assert subclass_counts(sizes).tolist() == case["also"]["subclasses_of_class_sizes"]
    features = [np.array(rows) for rows in case["extra"]["features"]]
    labels = np.repeat(np.arange(len(features)), [len(rows) for rows in features])
    factors = class_temperatures(np.concatenate(features), labels, counts)
    np.testing.assert_allclose(0.1 * factors, case["also"]["temperatures"], rtol=1e-5)
    assert 0.1 * factors.max() == pytest.approx(case["expected"], rel=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1.0, 1e19])
def test_clusters_do_not_depend_on_the_scale_of_the_points(scale):
    """faults D: below an absolute distance all points were one cluster."""
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(4), [40, 30, 20, 10])
    points = rng.normal(size=(100, 4)) + 30 * np.eye(4)[truth]
    np.testing.assert_array_equal(k_means((points * scale).astype(np.float32), 4), truth)
    np.testing.assert_array_equal(k_means((points + 1000) * scale, 4), truth)
    alike = np.repeat((points[:3] * scale).astype(np.float32), 20, axis=0)
    assert k_means(alike, 10).max() == 2
    assert k_means(np.repeat(alike[:1], 50, axis=0), 10).max() == 0


def test_subclasses_lie_within_their_classes():
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat([-1, 2, 5], [7, 12, 60]))
    points = rng.normal(size=(79, 4)).astype(np.float32)
    found = subclasses(points, labels)
    assert (found[labels < 0] == -1).all()
    assert sorted(np.unique(found[labels == 2])) == [0]
    assert sorted(np.unique(found[labels == 5])) == [1, 2, 3, 4, 5]
    within = labels == 5
    np.testing.assert_array_equal(found[within] - 1, k_means(points[within], 5))
    factors = temperatures_of(points, labels)
    assert (factors[labels != 5] == 1).all()
    assert len(set(factors[within].tolist())) == 1
    assert (temperatures_of(np.ones((40, 3)), np.repeat([0, 1], [10, 30])) == 1).all()  # nothing is spread out


def test_blocks_do_not_matter(monkeypatch):
    points = np.random.default_rng(4).normal(size=(200, 3))
    whole = clusterings(points, (3, 7), seed=1)
    monkeypatch.setattr("xsample_jax.evals.clusters.BLOCK", 40)
    np.testing.assert_array_equal(clusterings(points, (3, 7), seed=1), whole)
    assert whole.shape == (200, 2)
    assert whole.dtype == np.int32
    features = Features(points, None, np.arange(3), np.arange(3), index=np.array([0, 3, 4]))
    assert by_record(np.array([5, 6, 7]), features, 5).tolist() == [5, -1, -1, 6, 7]


def test_the_tool_writes_what_training_reads(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(resnet.LAYOUTS, 18, (resnet.BasicBlock, (1,)))
    save_run(tmp_path / "run", steps=(2,), data__split="test_styles")
    config = load_config("quickstart")
    source = open_source(config.data, "test_styles")
    common, out = [f"--run={tmp_path / 'run'}", "--seed=1"], tmp_path / "clusters.npz"
    assert main([*common, "--k=3", "--k=5", f"--out={out}"]) == FINISHED
    assert "clustering 1: 5 clusters of" in capsys.readouterr().out
    two = read_side(str(out), "cluster", source)
    assert two.shape == (len(source), 2)
    assert [len(np.unique(column)) for column in two.T] == [3, 5]
    examples = open_dataset(config_of(out), "test_styles", frozenset({"cluster"}))
    np.testing.assert_array_equal(examples[7]["cluster"], two[7])

    first = tmp_path / "first.npz"
    write_side(first, two[:, 0], source)
    assert main([*common, "--k=5", f"--digits={first}", f"--out={out}"]) == FINISHED
    np.testing.assert_array_equal(read_side(str(out), "cluster", source), 5 * two[:, :1] + two[:, 1:])

    tau = tmp_path / "tau.npz"
    assert main([*common, "--per_class", f"--temperatures={tau}", f"--out={out}"]) == FINISHED
    labels = np.array([source[place]["label"] for place in range(len(source))])
    of_class = {label: set(labels[column == label]) for column in [read_side(str(out), "cluster", source)[:, 0]]
                for label in np.unique(column)}  # fmt: skip
    assert all(len(found) == 1 for found in of_class.values())
    assert read_side(str(tau), "class_temperature", source).shape == (len(source),)

    wrong = [
        (["--k=5", "--per_class"], "--per_class in their place"),
        (["--k=1"], "--k = [1]: expected numbers from 2"),
        (["--k=70000"], "to 65,536"),
        (["--k=230"], "--k = 230: expected at most 229"),
        (["--k=2", "--k=3", f"--digits={first}"], "one --k"),
        (["--k=2", "--smallest=230"], "no cluster of clustering 0"),
        (["--k=2", "--smallest=0"], "--smallest = 0: expected a number of at least 1"),
        (["--k=2", f"--temperatures={tau}"], "--temperatures"),
        (["--per_class", f"--temperatures={tmp_path / 'no.npz'}"], "another path than --out"),  # faults B6
        (["--k=2", f"--digits={first}", "--split=val_styles"], "= 'test_styles': expected 'val_styles'"),
    ]
    for flags, message in wrong:
        assert main([*common, *flags, f"--out={tmp_path / 'no.npz'}"]) == BAD_INPUT
        assert message in capsys.readouterr().err
    assert not (tmp_path / "no.npz").exists()


def config_of(out):
    config = load_config("quickstart").copy_and_resolve_references().unlock()
    config.data.side = ({"name": "cluster", "file": str(out)},)
    return config

"""Encoding models: planted signals are found, noise is at zero, and files that say nothing are refused."""

import types

import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from xsample_jax.errors import ConfigError, DataError
from xsample_jax.evals import encoding
from xsample_jax.evals.context import EvalContext, Options
from xsample_jax.evals.encoding import ENCODING, fingerprint, folds_of, pearson, predicted, read_responses
from xsample_jax.evals.features import Features
from xsample_jax.evals.metrics import Collector, Scores, bootstrap

COUNT, WIDTH = 400, 30
RNG = np.random.default_rng(0)
X = (RNG.normal(size=(COUNT, WIDTH)) * np.linspace(0.1, 9, WIDTH) + 5).astype(np.float32)


def standard(values):
    return (values - values.mean(axis=0)) / values.std(axis=0)


# A linear function of the features with as much noise, one without noise, and noise alone.
CLEAN = standard(standard(X) @ RNG.normal(size=WIDTH))
Y = np.stack([CLEAN + RNG.normal(size=COUNT), 40 * CLEAN - 7, RNG.normal(size=COUNT)], axis=1)


@pytest.mark.parametrize("l2", [1e-3, 10.0])
def test_predictions_are_sklearns_ridge_of_the_other_folds(monkeypatch, l2):
    monkeypatch.setattr(encoding, "L2_VALUES", (l2,))
    folds = folds_of(np.arange(COUNT))
    ours = predicted(X, Y, np.arange(COUNT), folds)
    for fold in range(5):
        test = folds == fold
        scaler = StandardScaler().fit(X[~test])
        peer = Ridge(alpha=l2 * np.sum(~test)).fit(scaler.transform(X[~test]), Y[~test])
        np.testing.assert_allclose(ours[test], peer.predict(scaler.transform(X[test])), rtol=1e-3, atol=1e-3)


def test_r_is_what_was_planted_with_an_interval_that_covers_it():
    folds = folds_of(np.arange(COUNT))
    contributions = pearson(Y, predicted(X, Y, np.arange(COUNT), folds), folds)
    r = contributions.mean(axis=0)
    assert r[1] > 0.999
    assert r[0] == pytest.approx(np.sqrt(0.5), abs=0.08)  # half of the variance is signal
    assert abs(r[2]) < 0.15
    interval = bootstrap([Scores(contributions[:, 2], np.arange(COUNT))])
    assert interval.low < 0 < interval.high
    # One fold is plain Pearson; the interval is that of recomputing.
    a, b = Y[:, 0], CLEAN
    plain = pearson(a[:, None], b[:, None], np.zeros(COUNT))[:, 0]
    assert plain.mean() == pytest.approx(pearsonr(a, b).statistic)
    drawn = [pearsonr(a[half], b[half]).statistic for half in (RNG.permutation(COUNT)[:200] for _ in range(200))]
    interval = bootstrap([Scores(plain, np.arange(COUNT))])
    assert interval.high - interval.low == pytest.approx(3.92 * np.std(drawn), rel=0.25)
    assert pearson(a[:, None], np.zeros((COUNT, 1)), folds).mean() == 0


def test_images_of_one_group_are_never_on_both_sides():
    groups = np.repeat(np.arange(100), 4)
    folds = folds_of(groups)
    assert all(len(set(folds[groups == group])) == 1 for group in range(100))
    assert np.bincount(folds).tolist() == [80] * 5


def bench_of(path, records=COUNT, index=None):
    features = Features(X if index is None else X[index], None, np.arange(COUNT if index is None else len(index)),
                        np.full(COUNT if index is None else len(index), -1), index=index)  # fmt: skip
    settings = types.SimpleNamespace(split="test", train_split="train")
    config = types.SimpleNamespace(eval=settings, data=types.SimpleNamespace(source="records"))
    bench = EvalContext(lambda split: features, config, Options(responses=path))
    bench.source = lambda split: range(records)
    return bench


def test_the_evaluator_adds_every_column_and_leaves_out_what_was_not_measured(tmp_path):
    path, values = tmp_path / "responses.npy", Y.copy()
    values[:40] = np.nan
    np.save(path, values)
    bench, out = bench_of(path, index=np.arange(COUNT)[10:]), Collector()  # ten records could not be read
    assert list(ENCODING.check(bench)) == []
    ENCODING.run(bench, out)
    assert out.metrics.keys() == {"encoding/0", "encoding/1", "encoding/2", "encoding/mean"}
    assert (out.facts["encoding/0"].n, out.facts["encoding/0"].chance) == (360, 0.0)
    assert out.metrics["encoding/1"] > 0.99  # rows are those of their records
    assert out.metrics["encoding/mean"] == pytest.approx(np.mean([out.metrics[f"encoding/{n}"] for n in range(3)]))


@pytest.mark.parametrize(
    ("values", "words"),
    [(Y[:-1], r"rows of --responses = 399: expected 400"), (np.zeros((COUNT, 0)), "columns of --responses = 0"),
     (np.zeros((COUNT, 1001)), "1 to 1,000"), (np.where(np.arange(3) == 1, np.inf, Y), "column 1 of --responses"),
     (np.where(np.arange(3) == 2, 7.0, Y), "column 2 of --responses = 'one value'"),
     (np.full((COUNT, 2), np.nan), "at least 20"), (np.array(["a"] * COUNT), "one array of numbers"),
     (np.zeros((COUNT, 2, 2)), "one array of numbers")],
)  # fmt: skip
def test_responses_that_say_nothing_are_refused_before_anything_runs(tmp_path, values, words):
    np.save(tmp_path / "responses.npy", values)
    with pytest.raises(ConfigError, match=words):
        ENCODING.check(bench_of(tmp_path / "responses.npy"))


def test_files_that_are_not_there_or_damaged(tmp_path):
    for path in (None, tmp_path / "nowhere.npy"):
        with pytest.raises(ConfigError, match="--responses"):
            read_responses(path, COUNT)
    (tmp_path / "damaged.npy").write_bytes(b"no array")
    with pytest.raises(DataError, match="a file that numpy wrote"):
        read_responses(tmp_path / "damaged.npy", COUNT)
    np.savez(tmp_path / "several.npz", a=Y)
    with pytest.raises(ConfigError, match="several arrays"):
        read_responses(tmp_path / "several.npz", COUNT)
    assert fingerprint(None) is None
    assert fingerprint(tmp_path / "damaged.npy") != fingerprint(tmp_path / "several.npz")

"""Suite "probe": kNN and ridge probe on the labels of any record set with a training and an evaluation split."""

import numpy as np

from xsample_jax.errors import DataError
from xsample_jax.evals.emoji import NEIGHBOURS, TEMPERATURE, add_geometry
from xsample_jax.evals.knn import knn_predict
from xsample_jax.evals.probe import fit_probes
from xsample_jax.evals.result import Collector, FeaturesOf, SuiteResult


def probe_suite(features_of: FeaturesOf, config) -> SuiteResult:
    """Top-1 of kNN and probe, top-5 of the probe where there are more than five classes.

    Rows without a label (-1) are left out. Images are the unit of the bootstrap: nothing groups them here.
    """
    train, test = features_of(config.eval.train_split), features_of(config.eval.split)
    train, test = train.rows(train.label >= 0), test.rows(test.label >= 0)
    for split, rows in ((config.eval.train_split, train), (config.eval.split, test)):
        if not len(rows):
            raise DataError(
                f"labels of split {split}",
                "none",
                "labelled records",
                "Set eval.suite = 'none' for a set without labels.",
            )
    out, unit = Collector(), np.arange(len(test))
    predicted = knn_predict(train.features, train.label, test.features, NEIGHBOURS, TEMPERATURE)
    out.examples_of("label/knn", (predicted == test.label).astype(np.float32), unit)

    probe = fit_probes(train.features, {"label": train.label}, groups=np.arange(len(train)))["label"]
    order = probe.classes[np.argsort(-probe.scores(test.features), axis=1)[:, :5]]
    out.examples_of("label/probe", (order[:, 0] == test.label).astype(np.float32), unit)
    if len(probe.classes) > 5:
        out.examples_of("label/probe_top5", (order == test.label[:, None]).any(axis=1).astype(np.float32), unit)
    add_geometry(out, test, test.label)
    return out.result()

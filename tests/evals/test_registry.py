"""Every evaluator and every test set is described; every evaluator can be told what is missing."""

import pathlib

import pytest

from scripts.evaluators_page import table
from tests.tiny import tiny_config
from xsample_jax.errors import ConfigError, Problems
from xsample_jax.evals.catalog import HEADLINES, SECTIONS, describe
from xsample_jax.evals.registry import EVALUATORS, SUITES, check_metric_names
from xsample_jax.evals.robust_sets import SETS

PAGE = (pathlib.Path(__file__).parent.parent.parent / "docs" / "evaluation.md").read_text()


def test_the_page_names_every_evaluator_and_every_test_set():
    assert table() in PAGE, "run make docs"
    for evaluator in EVALUATORS.values():
        assert evaluator.metrics
        assert evaluator.says[0].islower() or evaluator.says.startswith(("ImageNet", "1, 2"))
        assert not evaluator.says.endswith(".")
    for name, robust in SETS.items():
        shown = "imagenet-9/<variant>" if name.startswith("imagenet-9/") else name
        assert f"| `{shown}`" in PAGE
        assert robust.page in PAGE
        assert f"{robust.count:,}" in PAGE


def test_every_test_set_has_a_title_of_its_own():
    titles = [describe(f"robustness/{name}") for name in SETS]
    assert len({metric.title for metric in titles}) == len(SETS)
    assert {metric.section for metric in titles} == {"Robustness"}
    assert describe("robustness/imagenet-9/gap").direction == -1
    assert SECTIONS[-1] == "Other"


MEASURED = {  # of every suite, names that runs have
    "emoji": [name for name in HEADLINES if not name.startswith(("label/", "factor/"))] + ["geometry/alignment"],
    "probe": ["label/knn", "label/probe", "label/probe_top5", "geometry/uniformity", "gap/pair_alignment"],
    "shapes": ["factor/shape/probe", "factor/ground/kept"],
    "classifier": ["classifier/forget_excess", "classifier/task_12", "classifier/forgetting", "classifier/seen"],
    "episodes": ["episodes/5way_1shot"],
}


def ranked_by(suite, metric, *stop):
    rules = tuple({"metric": name, "at_most": 0.5} for name in stop)
    every = {"checkpoint__every": 2, "eval__every": 2, "steps": 4}
    every |= {"objective__preset": "classifier"} if suite == "classifier" else {}
    return tiny_config(eval__suite=suite, checkpoint__metric=metric, eval__stop=rules, **every)


@pytest.mark.parametrize("suite", SUITES)
def test_metrics_of_a_suite_may_rank_and_stop_a_run(suite):
    for name in MEASURED[suite]:
        check_metric_names(ranked_by(suite, name, name))


@pytest.mark.parametrize(
    ("suite", "metric", "said"),
    [("probe", "label/prob", "Did you mean label/probe"), ("probe", "lable/knn", "Did you mean label/knn"),
     ("probe", "label/logistic", "measures"), ("emoji", "label/knn", "subgroup/knn"),
     ("probe", "geometry/alignement", "Did you mean geometry/alignment"), ("shapes", "factor/shape", "factor/"),
     ("probe", "geometry/tolerance", "no better side")],
)  # fmt: skip
def test_a_misspelt_metric_is_found_before_the_run(suite, metric, said):
    """faults C9: it was found at the first evaluation, after hours."""
    with pytest.raises(ConfigError, match=rf"checkpoint\.metric.*{said}"):
        check_metric_names(ranked_by(suite, metric))
    if said != "no better side":
        with pytest.raises(Problems, match=r"(?s)checkpoint\.metric.*eval\.stop"):
            check_metric_names(ranked_by(suite, metric, metric))

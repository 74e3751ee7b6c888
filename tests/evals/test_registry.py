"""Every evaluator and every test set is described; every evaluator can be told what is missing."""

import pathlib

from scripts.evaluators_page import table
from xsample_jax.evals.catalog import SECTIONS, describe
from xsample_jax.evals.registry import EVALUATORS
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

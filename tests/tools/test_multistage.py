"""The study of training in stages: which runs it starts, each with a config that holds, and its table."""

import argparse

from scripts import multistage
from tests.tools.test_evaluate import save_run
from xsample_jax.config import load_config
from xsample_jax.models import resnet
from xsample_jax.tools import evaluate
from xsample_jax.tools.cluster import make_parser


def test_every_stage_starts_from_the_one_before_on_its_pseudo_labels(tmp_path, monkeypatch):
    """MCL (arXiv 2402.11816): the second and third stage read what the first and second were clustered into."""
    configs, clusterings = {}, []

    def record(module, *flags):
        if module == "tools.cluster":
            clusterings.append(make_parser().parse_args(flags))
            return
        values = dict(flag.removeprefix("--").split("=", 1) for flag in flags)
        name = values.pop("workdir").rpartition("/")[2]
        changes = [f"{key.removeprefix('config.')}={value}" for key, value in values.items() if key != "config"]
        configs[name] = load_config(values["config"], changes)

    monkeypatch.setattr(multistage, "command", record)
    multistage.stages(tmp_path / "shapes", tmp_path, 1)
    assert set(configs) == {f"1-{one}" for one in ("stage0", "stage1", "stage2", "other1", "other2", "long")}
    for stage in (1, 2):
        config = configs[f"1-stage{stage}"]
        assert config.model.init_from == str(tmp_path / f"1-stage{stage - 1}")
        assert config.data.batches_of == "cluster"
        assert config.data.side[0]["file"] == str(tmp_path / f"1-{stage - 1}.npz")
    assert [str(one.out) for one in clusterings] == [str(tmp_path / f"1-{stage}.npz") for stage in (0, 1)]
    assert [one.digits and str(one.digits) for one in clusterings] == [None, str(tmp_path / "1-0.npz")]
    seeds = [config.seed for name, config in configs.items() if "stage" not in name or name.endswith("0")]
    assert len(set(seeds)) == len(seeds) - 1  # the long run has the seed of the stages, the controls have others
    assert configs["1-long"].steps == 3 * configs["1-stage0"].steps


def test_what_is_kept_is_read_from_an_evaluation_that_is_made_once(tmp_path, monkeypatch):
    monkeypatch.setitem(resnet.LAYOUTS, 18, (resnet.BasicBlock, (1,)))
    small = {"eval__train_split": "val", "eval__split": "val_styles", "eval__baselines": ()}
    for name in ("7-stage1", "7-stage0"):
        save_run(tmp_path / name, steps=(1,), **small)
    done = []

    def evaluated(module, *flags):
        done.append(module)
        evaluate.run(flags)

    monkeypatch.setattr(multistage, "command", evaluated)
    found = multistage.kept(tmp_path, 7, "stage1", ("stage0",))
    assert "group" in found
    assert all(value <= 1 for value in found.values())
    assert multistage.kept(tmp_path, 7, "stage1", ("stage0",)) == found
    assert done == ["tools.evaluate"]


def test_the_difference_is_paired_by_seed_and_bold_where_it_separates():
    values = {
        name: [{"color": 0.1 * seed + (0.2 if name == multistage.STAGES else 0), "shape": 0.5} for seed in range(3)]
        for name in multistage.SEEN
    }
    values[multistage.STAGES][1]["shape"] = 0.6
    lines = multistage.table(values).splitlines()
    assert lines[0] == "|  | color | shape |"
    assert lines[5].startswith("| three stages side by side | 30.0 | 53.3 |")
    assert lines[6] == "| stages minus runs | **+20.0** ± 0.0 | +3.3 ± 14.3 |"


def test_what_it_is_asked_is_checked_first(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("no markers")
    flags = argparse.Namespace(data=tmp_path, runs=tmp_path / "runs", out=page)
    assert multistage.main([f"--{name}={value}" for name, value in vars(flags).items()]) == 2
    assert "<!-- results -->" in capsys.readouterr().err
    assert not flags.runs.exists()

"""Results that stay: what is written is read back, marked when the code is another, and enough for a page."""

import ast
import hashlib
import json
import re

import numpy as np
import pytest

from tests.tools.synthetic_runs import write_run
from xsample_jax.config import config_from_json, load_config
from xsample_jax.errors import DataError
from xsample_jax.evals.metrics import load_examples, paired_difference
from xsample_jax.io import code_version
from xsample_jax.io.code_version import code_digest, log_code, trained_by
from xsample_jax.reports.runs import runs_of_results
from xsample_jax.sweeps import kept, local
from xsample_jax.sweeps.grid import Point, grid, read_grid
from xsample_jax.sweeps.kept import Keep, is_outdated, keep_result, pack, read_results, result_file, unpack
from xsample_jax.tools.results_page import main as main_results_page

GRID = """
from xsample_jax.sweeps.grid import Protocol, grid

def get_grid(arg=""):
    configs = {name: f"configs/objective.py:{name}" for name in ("xclr", "simclr")}
    points = grid(configs, {"data.fraction": (0.1, 0.5), "steps": (400,), "seed": (0, 1)})
    changed = {"data.fraction": (0.1,), "steps": (400,), "objective.center": (True,), "seed": (0, 1)}
    return points + grid({"xclr": configs["xclr"]}, changed)

def get_protocol(arg=""):
    return Protocol(("subgroup/knn", "group/probe"))
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A grid of two settings and a change, its runs (one of them is missing), and their results."""
    root = tmp_path_factory.mktemp("study")
    file = root / "small.py"
    file.write_text(GRID)
    name, points = read_grid(str(file))
    keep = Keep(str(file), root / "runs", root / "results", {})
    for point in points[:-1]:
        strength = {"xclr": 0.9, "simclr": 0.5}[point.tag] - 0.2 * len(point.values) + point.values["data.fraction"]
        folder = write_run(
            root / "runs" / point.name, point.name, point.tag, strength=strength, seed=point.values["seed"]
        )
        config = load_config(point.config, point.overrides(name))
        log_code(folder, 0)
        (folder / "config.json").write_text(config.to_json_best_effort())
        scores = {key: scores.mean() for key, scores in load_examples(folder / "evaluation.npz").items()}
        (folder / "evaluation.json").write_text(json.dumps(scores))
        keep_result(keep, point, kept.Protocol())
    return root, str(file), points


@pytest.mark.parametrize(
    ("values", "kind", "error"),
    [
        ([1, 0, 0, 1, 1, 0, 1, 1, 1], "bits", 0),
        ([], "bits", 0),
        ([-1, 0, 1], "float16", 0),
        ([0.123456], "float16", 1e-4),
        ([65504.0, 0.5], "float16", 0),
        ([70000.0, 0.5], "float32", 0),
    ],
)
def test_values_are_packed_and_unpacked(values, kind, error):
    packed = json.loads(json.dumps(pack(np.array(values))))
    assert kind in packed
    assert unpack(packed) == pytest.approx(np.array(values, np.float32), abs=error)


def test_a_result_is_read_back(study):
    root, file, points = study
    found = read_results(root / "results", file, points)
    assert list(found) == [point.name for point in points[:-1]]
    run = runs_of_results(root / "results", file, points)[points[0].name]
    examples = load_examples(root / "runs" / points[0].name / "evaluation.npz")
    assert run.examples.keys() == examples.keys()
    for name, scores in examples.items():
        assert np.array_equal(run.examples[name].concepts, scores.concepts)
        assert run.examples[name].values == pytest.approx(scores.values, rel=1e-3, abs=1e-7)
        assert run.metrics[name] == pytest.approx(scores.mean(), rel=1e-5)
    result = found[points[0].name]
    assert result["code"]["digest"] == code_digest()
    assert result["trained_by"] == [code_version.code_version()]
    assert not is_outdated(result)
    assert result["training"]["step"] == result["curve"][-1]["step"] == 400
    assert {"jax", "python", "numpy"} <= result["versions"].keys()
    assert re.fullmatch("[0-9a-f]{12}", result["config_digest"])
    assert result["metrics"]["group/probe"]["chance"] > 0
    assert not any(str(root) in text for text in map(str, result.values()))  # no path of this machine
    sizes = [path.stat().st_size for path in (root / "results").rglob("*.json")]
    assert sum(sizes) / len(found) < 60_000


def test_a_result_counts_for_its_config_only(study):
    root, file, points = study
    point = points[0]
    config = load_config(point.config, point.overrides("small"))
    keep = Keep(file, root / "runs", root / "results", {point.name: config, points[-1].name: config})
    assert keep.done(point)
    assert not keep.done(points[-1])  # has no result
    with config.unlocked():
        config.name, config.data.path, config.data.threads = "other", "elsewhere", 9
    assert keep.done(point)
    with config.unlocked():
        config.objective.temperature = 0.3
    assert not keep.done(point)
    path = result_file(root / "results", file, point)
    older = json.loads(path.read_text())
    del older["config"]["data"]["fraction"]  # as a file that is older than the key: its default is another
    assert "data.fraction" in kept.other_config(
        older, config_from_json(json.dumps(json.loads(path.read_text())["config"]))
    )


@pytest.fixture
def one_result(study, tmp_path):
    """(file of the grid, point, its config, its result, where a copy of that lies) of a finished point."""
    root, file, points = study
    path = result_file(tmp_path / "results", file, points[0])
    path.parent.mkdir(parents=True)
    text = result_file(root / "results", file, points[0]).read_text()
    path.write_text(text)
    return file, points[0], load_config(points[0].config, points[0].overrides("small")), json.loads(text), path


def test_a_result_counts_for_the_data_of_today_only(one_result, study, tmp_path, capsys, monkeypatch):
    """faults D6: a dataset was replaced, and its results stayed as they were."""
    file, point, config, found, path = one_result
    keep = Keep(file, study[0] / "runs", tmp_path / "results", {point.name: config})
    assert keep.done(point)
    assert capsys.readouterr().err == ""
    path.write_text(json.dumps(found | {"data": {"trained": "0" * 64}}))
    assert not keep.done(point)
    assert "is of other data (000000000000, today" in capsys.readouterr().err
    with config.unlocked():
        config.data.source, config.data.path = "records", str(tmp_path / "elsewhere")  # not on this machine
    with monkeypatch.context() as patch:
        patch.setattr(kept, "other_config", lambda found, config: [])
        assert keep.done(point)
    # Its run has learned from the former data, so what it is made again of is another training.
    monkeypatch.setattr(kept, "images_of", lambda folder: "former")
    with pytest.raises(DataError, match=r"learned from = 'former'.*Remove the run folder"):
        keep_result(keep, point, kept.Protocol())


def test_a_grid_of_the_same_name_in_another_folder_overwrites_nothing(one_result, study, tmp_path, capsys):
    """faults D6: results are named by the file of their grid, without its folder."""
    file, point, config, found, path = one_result
    before = path.read_text()
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "small.py"
    other.write_text(GRID)
    own, others = (
        Keep(str(one), study[0] / "runs", tmp_path / "results", {point.name: config}) for one in (file, other)
    )
    assert own.done(point)
    assert others.done(point)  # of the very config: it is this one's, too
    with config.unlocked():
        config.objective.temperature = 0.3
    assert not own.done(point)
    assert "is of another config (objective.temperature): it is made again" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"grid of .*expected other/small.*--results"):
        others.done(point)
    path.write_text(json.dumps(found | {"config": found["config"] | {"seed": 9}}))
    with pytest.raises(DataError, match=r"grid of .*expected other/small.*--results"):
        keep_result(others, point, kept.Protocol())
    path.write_text(json.dumps({name: value for name, value in found.items() if name != "grid"}))
    assert not others.done(point)  # of before grids were recorded
    path.write_text(before)


def test_the_digest_is_of_the_code_and_not_of_its_words(tmp_path):
    package = tmp_path / "package"
    for name in code_version.FILES:
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("")
    (package / "evals").mkdir()
    digests = []
    for text in (
        "def f(x):\n    return x\n",
        'def f(x):\n    """Doc."""\n    # why\n    return (x)\n',
        "def f(x):\n    return -x\n",
    ):
        (package / "evals" / "knn.py").write_text(text)
        code_digest.cache_clear()
        digests.append(code_digest(package))
    code_digest.cache_clear()
    assert digests[0] == digests[1] != digests[2]


def test_the_digest_is_the_same_in_every_python():
    """3.12 has given functions and classes an empty list more, and 3.13 leaves empty lists out of ast.dump."""
    text = "class C:\n    def f(self, a, *, b, c=1):\n        return None, {**a, 'b': b}\n"
    trees = [ast.parse(text) for _ in range(2)]
    for node in ast.walk(trees[1]):
        for name in [name for name, value in vars(node).items() if value in (None, [])]:
            delattr(node, name)
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            node._fields, node.type_params = (*dict.fromkeys((*type(node)._fields, "type_params")),), []
    first, second = map(code_version.syntax_text, trees)
    assert first == second
    assert hashlib.sha256(first.encode()).hexdigest()[:12] == "b2ffb6cc1c3a"  # in any Python: 3.11 and later
    others = [text.replace(*change) for change in (("**a", "a: a"), ("c=1", "c"), ("return None,", "return 0,"))]
    assert len({first, *(code_version.syntax_text(ast.parse(other)) for other in others)}) == 4


def test_a_result_is_of_the_code_that_trained_and_not_only_of_what_evaluates(study, tmp_path):
    root, file, points = study
    now, old = code_version.code_version(), {"digest": "0" * 12, "commit": None, "modified": None}
    history = tmp_path / "history.jsonl"

    def trained(*starts):
        lines = [{"event": code_version.TRAINS, "step": step, "code": code} for step, code in starts]
        history.write_text("".join(json.dumps(line) + "\n" for line in lines))
        found = trained_by(tmp_path)
        return found, is_outdated({"code": now, "trained_by": found})

    assert trained((0, now), (3, now)) == ([now], False)
    assert trained((0, old)) == ([old], True)
    assert trained((0, old), (3, now)) == ([old, now], True)
    assert trained((0, old), (0, now), (3, now)) == ([now], False)  # stopped before its first checkpoint
    assert trained((3, now)) == ([], True)  # who trained the first steps is not known
    assert trained((0, None)) == ([], True)
    assert trained() == ([], True)
    result = json.loads(result_file(root / "results", file, points[0]).read_text())
    assert not is_outdated(result)
    del result["trained_by"]  # as a result that is older than this
    assert is_outdated(result)


def test_the_page_is_made_of_results_alone_and_marks_older_ones(study, tmp_path, monkeypatch):
    root, file, _ = study
    call = [f"--grid={file}", f"--results={root / 'results'}", f"--out={tmp_path}/page.md"]
    (root / "runs").rename(root / "away")
    try:
        assert main_results_page(call) == 0
    finally:
        (root / "away").rename(root / "runs")
    text = (tmp_path / "page.md").read_text()
    assert "9 of 10 runs of the grid are finished." in text
    assert "†" not in text
    assert text.count("![Differences to simclr]") == 2
    assert (tmp_path / "page-1.png").is_file()
    assert (tmp_path / "page-sizes-1.png").is_file()
    ours, base = (
        [load_examples(root / "runs" / f"{name},fraction=0.1,steps=400,seed={seed}" / "evaluation.npz")["subgroup/knn"]
         for seed in (0, 1)]
        for name in ("xclr", "simclr")
    )  # fmt: skip
    expected = paired_difference(ours, base)
    told = next(line for line in text.splitlines() if line.startswith("- 10% of the images, steps 400: simclr against"))
    assert "simclr against xclr: " in told
    assert expected.mean > 0  # of xclr minus simclr, so simclr is behind
    assert ("behind on" in told and "Subgroup, kNN (" in told.partition("behind on")[2]) == expected.clear
    row = next(line for line in text.splitlines() if line.startswith("| Subgroup, kNN | "))
    shown = [float(word.replace("−", "-")) for word in re.findall(r"[+−]?[\d.]+", row)]
    assert shown == pytest.approx([100 * expected.mean, 100 * expected.low, 100 * expected.high], abs=0.051)
    assert "| xclr, center True | 1 |" in text  # one seed of the change: nothing is bold

    monkeypatch.setattr(kept, "code_digest", lambda: "0" * 12)
    assert main_results_page(call) == 0
    text = (tmp_path / "page.md").read_text()
    assert "9 of them (marked †) are of other code than today's, or" in text
    assert "xclr † (2 seeds)" in text


def test_results_of_another_config_are_left_out_and_of_other_data_refused(study, tmp_path, capsys):
    root, file, points = study
    copies = []
    for point in points[:4]:
        path = result_file(tmp_path / "results", file, point)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(result_file(root / "results", file, point).read_text())
        copies.append((path, json.loads(path.read_text())))
    (tmp_path / "results" / "units").symlink_to(root / "results" / "units")

    def read(number, change):
        path, found = copies[number]
        changed = json.loads(json.dumps(found))
        change(changed)
        path.write_text(json.dumps(changed))
        try:
            return list(read_results(tmp_path / "results", file, points))
        finally:
            path.write_text(json.dumps(found))

    names = [point.name for point in points[:4]]
    assert read(1, lambda found: None) == names
    assert capsys.readouterr().err == ""
    assert read(1, lambda found: found["config"]["objective"].update(temperature=0.7)) == [names[0], *names[2:]]
    assert f"results of another config than today's, left out: 1 ({names[1]})" in capsys.readouterr().err
    assert names[1] not in read(1, lambda found: found["config"].update(no_such_key=1))
    assert points[0].values | {"seed": 1} == points[1].values
    with pytest.raises(DataError, match=r"data of trained in results of xclr,fraction=0\.1,steps=400 = ") as error:
        read(1, lambda found: found["data"].update(trained="0" * 64))
    assert len(str(error.value)) < 500


def test_damage_is_said(study, tmp_path, capsys):
    root, file, points = study
    path = result_file(tmp_path / "results", file, points[0])
    path.parent.mkdir(parents=True)
    call = [f"--grid={file}", f"--results={tmp_path / 'results'}", f"--out={tmp_path}/page.md"]
    assert main_results_page(call) == 2
    assert "at least one result" in capsys.readouterr().err
    whole = result_file(root / "results", file, points[0]).read_text()
    changes = [("metrics", "x"), ("metrics", {"group/knn": 1}), ("data", []), ("curve", 3), ("config", None)]
    changes += [("metrics", {"group/knn": {"value": value}}) for value in ("1", None)]
    changed = [json.dumps(json.loads(whole) | {name: value}) for name, value in changes]
    for text in ("{", "{}", "[]", whole.replace('"units": "', '"units": "0'), *changed):
        path.write_text(text)
        assert main_results_page(call) == 2
        error = capsys.readouterr().err
        assert error.count("Restore it with git") == error.count("expected") == 1
        assert len(error) < 600


def test_what_cannot_be_kept_is_refused(study):
    root, file, points = study
    keep = Keep(file, root / "runs", root / "results", {})
    with pytest.raises(DataError, match="a finished run"):
        keep_result(keep, points[-1], kept.Protocol())


class Keeper:
    """Stands for `Keep`: the result of a point is a file that its command writes, or does not."""

    def __init__(self, folder, fails=(), waits=0):
        self.folder, self.fails, self.waits = folder, fails, waits
        folder.mkdir(exist_ok=True)

    def done(self, point: Point) -> bool:
        return (self.folder / point.name).exists()

    def command(self, point: Point) -> list[str]:
        code = f"import pathlib, sys, time; time.sleep({self.waits}); pathlib.Path(sys.argv[1]).touch()"
        return ["-c", "raise SystemExit(3)" if point.name in self.fails else code, str(self.folder / point.name)]


@pytest.fixture
def quick_trainer(monkeypatch):
    """Training makes a run folder that is finished."""
    monkeypatch.setattr(local, "POLL", 0.02)
    train = "import pathlib, sys; f = pathlib.Path(sys.argv[1]); f.mkdir(parents=True); "
    train += "(f / 'evaluation.json').write_text('{}')"
    monkeypatch.setattr(local, "trainer_command", lambda point, sweep, workdir: ["-c", train, workdir])


def test_a_sweep_makes_results_and_runs_nothing_again_that_has_one(tmp_path, quick_trainer):
    points, said = grid("x.py", {"seed": range(3)}), []
    keeper = Keeper(tmp_path / "kept", fails=("seed=1",))
    run = lambda: local.run_points(points, "s", tmp_path / "out", say=said.append, keep=keeper)  # noqa: E731
    assert run() == {"seed=1": 3}
    assert [line.split()[0] for line in said[1:]] == ["started", "trained", "finished", "started", "trained", "FAILED",
                                                      "started", "trained", "finished"]  # fmt: skip
    assert sorted(path.name for path in keeper.folder.iterdir()) == ["seed=0", "seed=2"]
    keeper.fails, said[:] = (), []
    for seed in (0, 2):  # run folders may go once there is a result
        (tmp_path / "out" / f"seed={seed}" / "evaluation.json").unlink()
    assert run() == {}
    assert said == ["s: 3 runs, 2 of them finished, 1 at once", "finished seed=1 (3 of 3)"]


def test_a_run_starts_beside_an_evaluation(tmp_path, quick_trainer):
    points, said = grid("x.py", {"seed": range(2)}), []
    (tmp_path / "out" / "seed=0").mkdir(parents=True)  # trained already, so it is evaluated first
    (tmp_path / "out" / "seed=0" / "evaluation.json").write_text("{}")
    keeper = Keeper(tmp_path / "kept", waits=3)
    assert local.run_points(points, "s", tmp_path / "out", local.Workers(2), say=said.append, keep=keeper) == {}
    assert said.index("started  seed=1") < next(n for n, line in enumerate(said) if line.startswith("finished seed=0"))


def test_numbers_that_are_tiny_are_kept_as_they_are():
    """faults D9: in float16 they were 0."""
    for size, kind in ((1e-8, "float32"), (1.0, "float16"), (1e6, "float32")):
        values = np.linspace(0.1, 0.9, 9, dtype=np.float32) * np.float32(size)
        assert kind in pack(values)
        np.testing.assert_allclose(unpack(pack(values)), values, rtol=1e-3)

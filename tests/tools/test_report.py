"""The report and the results table, built from synthetic run folders."""

import dataclasses
import html.parser
import json
import re
import shutil

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from tests.tools.synthetic_runs import write_run
from xsample_jax.errors import BAD_INPUT, DataError
from xsample_jax.evals.catalog import describe
from xsample_jax.evals.metrics import Scores, bootstrap, load_examples, paired_difference
from xsample_jax.io.files import load_arrays
from xsample_jax.reports import report, results_table
from xsample_jax.reports.figures import _line_and_band, smooth, target_temperature
from xsample_jax.reports.runs import Run, Series, group_seeds, load_runs, read_snapshot, unit_of
from xsample_jax.reports.style import insert
from xsample_jax.tools.report import main as main_report
from xsample_jax.tools.results_table import main as main_results_table


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return {
        (preset, seed): write_run(root / f"{preset}{seed}", f"run_{preset}", preset, strength=strength, seed=seed)
        for preset, strength in (("xclr", 0.75), ("simclr", 0.55))
        for seed in (0, 1)
    }


@pytest.fixture(scope="module")
def seeds_page(folders, tmp_path_factory):
    out = tmp_path_factory.mktemp("seeds") / "report.html"
    report.write_report(list(folders.values()), out)
    return out


@pytest.fixture(scope="module")
def page(folders, tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "report.html"
    assert main_report([str(folders["xclr", 0]), str(folders["simclr", 0]), f"--out={out}"]) == 0
    return out


class Outline(html.parser.HTMLParser):
    """Collects ids, sources, text, and checks that tags are closed in order."""

    VOID = frozenset({"meta", "img", "source", "br", "wbr", "link", "line"})

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.sources, self.text = [], [], [], []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids.append(attributes.get("id"))
        self.sources += [attributes[name] for name in ("src", "srcset", "href") if name in attributes]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(path):
    outline = Outline()
    outline.feed(path.read_text().replace("<wbr>", ""))
    assert not outline.open
    return outline, re.sub(r"\s+", " ", " ".join(outline.text))


def test_page_is_self_contained_and_has_every_part(page):
    outline, text = read(page)
    assert {"evaluation", "differences", "curves", "graph", "map", "neighbors", "errors", "config"} <= set(outline.ids)
    assert len(outline.sources) > 100
    assert all(source.startswith("data:image/png;base64,") for source in outline.sources)
    for words in (
        "run_xclr",
        "run_simclr",
        "KL of target and student",
        "Student minus target",
        "optimizer.learning_rate",
        "Near, and unlike each other",
    ):
        assert words in text
    assert "<thing 110>" in text  # a caption is text, not markup
    assert "batch_size" not in text.split("What differs")[1]  # the same in both
    figures = page.with_name("report_figures")
    for name in (
        "curve_kl",
        "curve_kl-dark",
        "graph_0_target",
        "neighbors_1",
        "temperature_own_view_mass",
        "map_1_style",
    ):
        assert Image.open(figures / f"{name}.png").size[0] > 100


def test_table_prints_the_numbers_of_the_runs(page, folders):
    _, text = read(page)
    ours, theirs = (load_examples(folders[preset, 0] / "evaluation.npz") for preset in ("xclr", "simclr"))
    for name in ("subgroup/knn", "retrieval/twemoji_to_noto", "spearman/captions"):
        metric, interval = describe(name), bootstrap([ours[name]])
        assert f"{metric.text(interval.mean)} [{metric.text(interval.low)}, {metric.text(interval.high)}]" in text
        difference = paired_difference([ours[name]], [theirs[name]])
        assert f"{metric.text(difference.mean, True)} [{metric.text(difference.low, True)}, " in text
    assert "run_xclr against run_simclr: one seed, so none of 10 metrics is separated." in text
    assert "One seed of every series" in text
    # faults D2: what each number has to be compared with.
    knn = np.bincount(np.arange(110, 150) % 15).max() / 40
    value = ours["subgroup/knn"].mean()
    base = np.mean([0.5 * of["subgroup/knn"].mean() for of in (ours, theirs)])
    assert f"n = 120, 15 classes; chance {100 * knn:.1f}, untrained encoder {100 * base:.1f}, pixels" in text
    assert value > base


def test_words_are_those_of_the_set(page, tmp_path):
    """faults D3: concepts and groups only where the set has them."""
    assert "over concepts" in read(page)[1]
    concepts = np.arange(30)
    examples = {"label/knn": Scores(np.ones(30), concepts)}
    run = Run("plain", tmp_path, {"seed": 0}, [], [(1, {"label/knn": 1.0})], examples, None)
    assert unit_of([run]) == "images"
    few, many = (Scores(np.ones(30), concepts // size) for size in (10, 2))
    units = [unit_of([dataclasses.replace(run, examples={"label/knn": scores})]) for scores in (few, many)]
    assert units == ["images", "concepts"]  # three concepts are not resampled, fifteen are
    report._write([Series("plain", (run,)), Series("other", (run,))], 2, tmp_path / "plain.html", None)
    text = read(tmp_path / "plain.html")[1]
    assert "over images" in text
    assert "concept" not in text
    assert "group" not in text


def test_verdicts_of_several_seeds(seeds_page):
    better = re.search(
        r"run_xclr against run_simclr: better on (\d+) of 10 metrics, worse on (\d+), not separated on (\d+)",
        read(seeds_page)[1],
    )
    assert sum(map(int, better.groups())) == 10
    assert int(better[1]) > int(better[2])


def cells_of(page, metric):
    body = page.read_text().split('id="evaluation"')[1].split("<details")[0]
    row = body.split(f"<th>{metric.title}<span")[1].split("</tr>")[0]
    return re.split(r"<td[^>]*>", row)[1:]


@pytest.mark.parametrize("pages", ["page", "seeds_page"])
def test_best_is_bold_only_where_the_paired_interval_excludes_zero(pages, folders, request):
    path = request.getfixturevalue(pages)
    seeds = (0,) if pages == "page" else (0, 1)
    marks = []
    for name in ("subgroup/knn", "group/probe", "background/gap/group/probe", "spearman/captions"):
        metric = describe(name)
        ours, theirs = (
            [load_examples(folders[preset, seed] / "evaluation.npz")[name] for seed in seeds]
            for preset in ("xclr", "simclr")
        )
        difference = paired_difference(ours, theirs)
        first = 0 if metric.direction * difference.mean > 0 else 1
        for place, cell in enumerate(cells_of(path, metric)):
            assert ("★" in cell) == (" best" in cell) == (place == first and difference.clear), name
            marks.append("★" in cell)
            if not difference.clear and place == first:
                assert " ahead" in cell
    assert any(marks) == (len(seeds) > 1)  # faults D3: one seed is never bold
    assert sum(marks) < len(marks) / 2  # some rows are not separated


def test_seeds_of_one_config_are_one_column_with_their_mean_and_interval(seeds_page, folders):
    _, text = read(seeds_page)
    assert text.count("Seeds 0, 1") == 2
    assert "4 runs of" in text
    assert "One run each" not in text
    ours = [load_examples(folders["xclr", seed] / "evaluation.npz")["subgroup/knn"] for seed in (0, 1)]
    metric, interval = describe("subgroup/knn"), bootstrap(ours)
    assert f"{metric.text(interval.mean)} [{metric.text(interval.low)}, {metric.text(interval.high)}]" in text
    assert "seed" not in text.split("What differs")[1]


def test_a_single_run_without_evaluation_still_reports(tmp_path):
    folder = write_run(tmp_path / "bare", "bare", "simclr", strength=0.5, steps=40, with_evaluation=False)
    outline, text = read(report.write_report([folder], tmp_path / "bare.html"))
    assert "curves" in outline.ids
    assert not {"evaluation", "differences", "graph", "map", "neighbors", "errors", "config"} & set(outline.ids)
    assert "1 run of" in text


def names(paths):
    return [(one.name, len(one.runs)) for one in group_seeds(load_runs(paths))]


def test_series_are_runs_that_differ_in_their_seed_only(folders, tmp_path, capsys):
    assert names(folders.values()) == [("run_xclr", 2), ("run_simclr", 2)]
    twice = names([folders["xclr", 0], folders["xclr", 0], folders["xclr", 1]])
    assert [count for _, count in twice] == [2, 1]  # the same seed again is no sample of two
    warmer = write_run(tmp_path / "warm", "run_xclr", "xclr", strength=0.5, with_evaluation=False, tau_s=0.2)
    found = names([folders["xclr", 0], warmer])
    assert found == [("run_xclr, target_temperature 0.1", 1), ("run_xclr, target_temperature 0.2", 1)]
    swept = [write_run(tmp_path / f"s{seed}", f"objective/xclr,seed={seed}", "xclr", strength=0.5, seed=seed,
                       with_evaluation=False) for seed in (3, 4)]  # fmt: skip
    assert names(swept) == [("objective/xclr", 2)]
    for folder, cache in zip(swept, ("ram", "none"), strict=True):  # which changes no number
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"data": {"cache": cache}, "log": {"every": 5}}))
    assert names(swept) == [("objective/xclr", 2)]
    assert main_report([str(tmp_path), f"--out={tmp_path}/no.html"]) == 2
    assert "config.json" in capsys.readouterr().err


def test_temperature_of_a_series_is_the_configs_or_the_presets(tmp_path):
    def of(preset, **changes):
        config = {"objective.preset": preset, **{f"objective.{key}": value for key, value in changes.items()}}
        return target_temperature(Series("s", (Run("s", tmp_path, config, [], [], {}, None),)))

    assert of("xclr") == 0.1
    assert of("xclr", target_temperature=0.3) == 0.3
    assert of("xclr", target_neighbors=8.0) is None
    assert of("simclr") is None


def test_band_holds_every_seed_and_the_line_is_their_mean(folders):
    (series,) = group_seeds(load_runs([folders["xclr", 0], folders["xclr", 1]]))
    steps, values = series.curve("kl")
    for row, run in zip(values, series.runs):
        np.testing.assert_array_equal(row, [line["kl"] for line in run.training])
    np.testing.assert_array_equal(steps, [line["step"] for line in series.runs[0].training])
    figure = Figure()
    axes = figure.subplots()
    _line_and_band(axes, steps, values, "x", {"color": "k"})
    np.testing.assert_allclose(axes.lines[0].get_ydata(), values.mean(axis=0))
    corners = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (corners.min(), corners.max()) == (values.min(), values.max())


def test_smoothing_keeps_gaps_and_is_the_mean_of_a_window():
    values = np.array([[1.0, 2.0, 6.0, np.nan, 3.0]])
    np.testing.assert_allclose(smooth(values, 3), [[1.5, 3.0, 11 / 3, np.nan, 4.5]])


def test_results_table_means_intervals_and_markers(folders, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("# Title\n\n<!-- results -->\nstale words\n<!-- /results -->\n\nafter\n")
    call = [*map(str, folders.values()), f"--out={readme}"]
    assert main_results_table(call) == 0
    once = readme.read_text()
    assert main_results_table(call) == 0
    assert readme.read_text() == once
    assert once.startswith("# Title\n\n<!-- results -->\n")
    assert once.endswith("<!-- /results -->\n\nafter\n")
    assert "stale words" not in once
    assert "| xclr (2 seeds) | simclr (2 seeds) |" in once

    ours, theirs = (
        [load_examples(folders[p, s] / "evaluation.npz")["subgroup/knn"] for s in (0, 1)] for p in ("xclr", "simclr")
    )
    number = lambda line, column: float(re.search(r"[+−]?[\d.]+", line.split("|")[column]).group().replace("−", "-"))  # noqa: E731
    mean = lambda seeds: 100 * np.mean([np.mean(scores.values) for scores in seeds])  # noqa: E731
    values, differences = (line for line in once.splitlines() if line.startswith("| Subgroup, kNN"))
    assert number(values, 7) == pytest.approx(mean(ours), abs=0.051)
    assert number(differences, 2) == pytest.approx(mean(ours) - mean(theirs), abs=0.051)
    assert "|  | n | classes | chance | untrained encoder | pixels | xclr (2 seeds)" in once
    assert [number(values, column) for column in (2, 3)] == [120, 15]
    assert number(values, 5) == pytest.approx(0.5 * (mean(ours) + mean(theirs)) / 2, abs=0.051)
    difference = paired_difference(ours, theirs)
    assert "**" not in values.split("|")[8]
    assert ("**" in values.split("|")[7]) == ("**" in differences) == difference.clear
    # faults D3: without a second seed of one side nothing is bold, and the table says so.
    fewer = results_table.results_markdown({"xclr": load_runs(list(folders.values())[:2]),
                                            "simclr": load_runs(list(folders.values())[2:3])})  # fmt: skip
    assert "**" not in fewer
    assert fewer.count("One seed of simclr") == 2


def test_results_table_refuses_what_it_cannot_compare(folders, tmp_path):
    runs = load_runs(folders.values())
    columns = results_table.group_runs(runs)
    with pytest.raises(DataError, match="baseline"):
        results_table.results_markdown(columns, baseline="clip")
    with pytest.raises(DataError, match="each seed once"):
        results_table.results_markdown({"xclr": [runs[0], runs[0]]})
    with pytest.raises(DataError, match="all runs have"):
        results_table.results_markdown(columns, metrics=["label/knn"])
    (tmp_path / "plain.md").write_text("no markers")
    with pytest.raises(DataError, match="markers"):
        insert(tmp_path / "plain.md", "results", "text")


@pytest.mark.parametrize(
    "content", [b"no markers", b"<!-- results -->\n", b"caf\xe9 <!-- results --> <!-- /results -->"]
)
def test_a_page_without_markers_is_found_before_the_work(tmp_path, capsys, content):
    """faults D7: runs were read and compared, and their tables were lost."""
    page = tmp_path / "page.md"
    page.write_bytes(content)
    assert main_results_table([str(tmp_path / "nowhere"), f"--out={page}"]) == 2
    assert str(page) in (said := capsys.readouterr().err)
    assert "byte 0xe9 at 3, line 1" in said if b"\xe9" in content else "no markers" in said
    assert page.read_bytes() == content


def test_a_page_is_whole_or_as_it_was(tmp_path, monkeypatch):
    """faults B4: a full disk in the middle of writing cut a page that somebody wrote by hand."""
    text = "before\n<!-- results -->\nold\n<!-- /results -->\nafter\n"
    (tmp_path / "page.md").write_text(text)
    (tmp_path / "link.md").symlink_to(tmp_path / "page.md")

    def full(path, *arguments, **options):
        with open(path, "w") as file:
            file.write("half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.write_text", full)
        with pytest.raises(DataError, match="Make room"):
            insert(tmp_path / "link.md", "results", "new")
    assert (tmp_path / "page.md").read_text() == text
    insert(tmp_path / "link.md", "results", "new")
    assert (tmp_path / "link.md").is_symlink()
    assert (tmp_path / "page.md").read_text() == text.replace("old", "\nnew\n")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b"[]"),
        ("config.json", b'"x"'),
        ("config.json", b"\xff"),
        ("config.json", None),
        ("metrics.jsonl", b"[]\n"),
        ("metrics.jsonl", b'{"step": 1, "loss": "low"}\n'),
        ("metrics.jsonl", b'{"step": 1, "loss": [1]}\n'),
        ("metrics.jsonl", b'{"step": 1, "eval/label/knn": 1' + b"0" * 400 + b"}\n"),
        ("evaluation.npz", {"values/label/knn": np.zeros(2), "concepts/label/knn": np.array(["a", "b"])}),
        ("evaluation.npz", {"values/label/knn": np.zeros(0), "concepts/label/knn": np.zeros(0, np.int32)}),
        ("evaluation.npz", b"PK"),
        ("evaluation.npz", None),
        ("evaluation.npz", {"values/label/knn": np.zeros(3)}),
        ("evaluation.npz", {"values/label/knn": np.zeros(3), "concepts/label/knn": np.zeros(2, np.int32)}),
        ("evaluation.npz", {"values/label/knn": np.zeros((3, 1)), "concepts/label/knn": np.zeros((3, 1), np.int32)}),
        ("report_data.npz", b"x"),
        ("report_data.npz", None),
        ("report_data.npz", {"x": np.zeros(3)}),
    ],
)
def test_a_damaged_file_of_a_run_is_named(folders, tmp_path, capsys, name, content):
    """faults B6: tracebacks, of which none named the file."""
    folder = tmp_path / "run"
    shutil.copytree(folders["xclr", 0], folder)
    place = folder / name
    place.unlink()
    if content is None:
        place.mkdir()
    elif isinstance(content, bytes):
        place.write_bytes(content)
    else:
        np.savez(place, **content)
    assert main_report([str(folder), f"--out={tmp_path / 'report.html'}"]) == BAD_INPUT
    error = capsys.readouterr().err
    assert str(place) in error
    assert "Traceback" not in error
    assert main_results_table([str(folder)]) == BAD_INPUT
    assert str(place) in capsys.readouterr().err


@pytest.mark.parametrize(
    "facts",
    [
        {"n": None, "chance": None, "baselines": None},
        {"n": "x", "chance": "y"},
        {"baselines": []},
        {"baselines": {"untrained": None, "pixels": {}}},
        None,
    ],
)
def test_facts_with_nothing_in_them_are_said_and_left_out(folders, tmp_path, capsys, facts):
    """faults B6: a null in the place of a number or of the baselines ended the page and the tables."""
    run = tmp_path / "run"
    shutil.copytree(folders["xclr", 0], run)
    names = list(load_examples(run / "evaluation.npz"))
    (run / "evaluation_facts.json").write_text(json.dumps({"metrics": dict.fromkeys(names, facts), "notes": []}))
    assert main_report([str(run), f"--out={tmp_path / 'r.html'}"]) == 0
    assert main_results_table([str(run)]) == 0
    assert "evaluation_facts.json is damaged" in capsys.readouterr().err


def test_numbers_that_no_axis_can_hold_are_left_out(tmp_path):
    """faults B6: a loss of 1e308 and one of -1e308 ended the page in matplotlib."""
    run = write_run(tmp_path / "run", "run", "xclr", strength=0.5, with_evaluation=False, steps=40)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    text = [json.dumps(line | {"loss": 1e308 * (-1) ** (line["step"] // 10)}) for line in lines[1:]]
    (run / "metrics.jsonl").write_text("\n".join([json.dumps(lines[0]), *text, ""]))
    assert main_report([str(run), f"--out={tmp_path / 'report.html'}"]) == 0


def test_a_map_may_have_many_colorings(folders, tmp_path):
    """faults B6: the sizes of forty attributes were taken for one another, and sound images for damaged ones."""
    arrays, path = load_arrays(folders["xclr", 0] / "report_data.npz"), tmp_path / "report_data.npz"
    points = len(arrays["map/xy"])
    for number in range(60):
        arrays |= {
            f"map/codes/a{number}": np.zeros(points, int),
            f"map/words/a{number}": np.array(["no"] * (1 + number)),
        }
    np.savez(path, **arrays)
    assert len(read_snapshot(path)) == len(arrays)


@pytest.mark.parametrize("change", ["lost", "cut", "scalar", "text", "far"])
def test_images_of_the_report_that_do_not_go_together_are_named(folders, tmp_path, change):
    """faults B6: arrays that were lost, cut, single numbers or texts ended the page with a traceback."""
    arrays, path = load_arrays(folders["xclr", 0] / "report_data.npz"), tmp_path / "report_data.npz"
    far = {"query", "neighbor", "relation"}
    for name in sorted(arrays.keys() & far) if change == "far" else arrays:
        if (change == "lost" and name.startswith(("map/xy", "map/share", "map/codes"))) or name == "stand_in":
            continue  # the map, or one of its colorings, is then not drawn
        if change in ("cut", "scalar", "text") and not arrays[name].ndim:
            continue
        made = {
            "cut": lambda array: array[:-1],
            "scalar": lambda array: np.float32(3),
            "text": lambda array: np.zeros(array.shape) if array.dtype.kind == "U" else array.astype(str),
            "far": lambda array: array + 100,
        }
        found = {one: array for one, array in arrays.items() if one != name}
        np.savez(path, **found if change == "lost" else found | {name: made[change](arrays[name])})
        if name.startswith("map/words") and change == "cut":
            continue  # words that no point has
        with pytest.raises(DataError, match=r"images of the report.*report_data\.npz.*arrays that go together"):
            read_snapshot(path)

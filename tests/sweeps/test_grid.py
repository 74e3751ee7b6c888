"""Grids: their points, names and overrides, and all that is wrong with them, at once."""

import pytest

from tests.prepare.corpora import make_image
from xsample_jax.config import load_config
from xsample_jax.config.saved import save_config
from xsample_jax.errors import ConfigError, Problems
from xsample_jax.prepare.prepare import prepare_folder
from xsample_jax.sweeps.grid import Point, as_text, grid, read_grid
from xsample_jax.sweeps.launch import check_points

SMOKE = "configs/quickstart.py:smoke"


def test_all_combinations_in_order():
    points = grid({"a": "x.py", "b": "y.py"}, {"objective.temperature": (0.1, 0.2), ("batch_size", "steps"): [(8, 3)]})
    assert [(point.config, point.tag, *point.values.values()) for point in points] == [
        ("x.py", "a", 0.1, 8, 3),
        ("x.py", "a", 0.2, 8, 3),
        ("y.py", "b", 0.1, 8, 3),
        ("y.py", "b", 0.2, 8, 3),
    ]
    assert points[1].name == "a,temperature=0.2,batch_size=8,steps=3"
    assert grid("x.py", {})[0].name == "run"


def test_names_tell_keys_of_one_leaf_apart_and_suit_a_folder():
    values = {"checkpoint.every": 2, "log.every": 3, "data.path": "data/My Set", "objective.graph": None}
    assert Point("x.py", values).name == "checkpoint.every=2,log.every=3,path=my-set,graph=none"


def test_overrides_are_read_back_as_the_same_values():
    values = {
        "optimizer.learning_rate": 1e-05,
        "augment.crop_scale": (0.25, 1.0),
        "model.head.hidden": (),
        "model.head.batch_norm": False,
        "checkpoint.metric": None,
        "objective.terms": ({"graph": "label"},),
        "data.samples_per_class": 3,
    }
    config = load_config(SMOKE, Point(SMOKE, values).overrides("my"))
    assert config.name.startswith("my/learning_rate=1e-05,")
    for key, value in values.items():
        section, _, leaf = key.rpartition(".")
        found = config
        for name in section.split("."):
            found = found[name]
        assert found[leaf] == value, key
    assert as_text(("a", "b")) == "(a,b)"


def write_grid(tmp_path, body):
    path = tmp_path / "mine.py"
    path.write_text(f"from xsample_jax.sweeps.grid import grid\n{body}\n")
    return str(path)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", "no get_grid"),
        ("def get_grid(arg):\n    return []", "the points that"),
        ("def get_grid(arg):\n    return 1 / 0", r"mine\.py, line 3.*ZeroDivisionError"),
        ("def get_grid():\n    return grid('x.py', {'seed': (1, 1)})", r"seed=1.*names of their own"),
    ],
)
def test_wrong_grid_files(tmp_path, body, message):
    with pytest.raises(ConfigError, match=message):
        read_grid(write_grid(tmp_path, body))


def test_the_name_of_a_grid_has_its_argument(tmp_path):
    path = write_grid(tmp_path, "def get_grid(arg):\n    return grid('x.py', {'seed': (1, 2)})")
    assert read_grid(f"{path}:small,smoke")[0] == "mine-small-smoke"
    assert read_grid(path)[0] == "mine"


def test_all_problems_of_all_points_at_once():
    points = grid(SMOKE, {"objective.graph": ("caption", "captoin"), "batch_size": (16, 1), "seed": (0, 1)})
    points += grid("configs/nowhere.py", {"seed": (0,)})
    points += grid(SMOKE, {"data.label_noise": (0.5,)})
    points += grid(SMOKE, {("data.source", "data.path", "eval.suite"): [("records", "nowhere", "none")]})
    with pytest.raises(Problems) as caught:
        check_points(points, "mine")
    text = str(caught.value)
    assert text.startswith("5 problem(s) in the grid mine")
    assert "[graph=captoin,batch_size=16,seed=0; graph=captoin,batch_size=16,seed=1;" in text
    assert "Did you mean caption" in text
    assert "[graph=caption,batch_size=1,seed=0;" in text
    assert "[seed=0] --config" in text
    assert "[label_noise=0.5] data.label_noise" in text
    assert "nowhere" in text


def test_clusters_that_the_images_are_too_few_for_are_found():
    preset = ("objective.preset", "objective.clusters.by_class")
    points = grid(SMOKE, {preset: [("pcl", False)], "objective.clusters.k": ((4,), (4, 100_000))})
    points += grid(SMOKE, {preset: [("sbcl", True)], "objective.clusters.k": ((4,), (2000,))})
    with pytest.raises(Problems) as caught:
        check_points(points, "mine")
    images, classes = sorted(caught.value.problems, key=str)
    assert "at most" in images.expected
    assert "more subclasses" in classes.expected
    assert images.field == f"[{points[1].name}] objective.clusters.k"
    assert classes.field == f"[{points[2].name}] objective.clusters.k"


def test_a_problem_of_all_points_says_so():
    with pytest.raises(Problems, match=r"\[all points\] objective\.graph"):
        check_points(grid(SMOKE, {"objective.graph": ("x",), "seed": (0, 1)}), "mine")


def test_a_folder_with_another_run_is_reported(tmp_path):
    points = grid(SMOKE, {"seed": (0, 1)})
    configs = check_points(points, "mine", str(tmp_path))
    assert [config.seed for config in configs.values()] == [0, 1]
    (tmp_path / "seed=1").mkdir()
    save_config(configs["seed=0"], tmp_path / "seed=1", {})
    (tmp_path / "seed=1" / "evaluation.json").write_text("{}")  # without a result or a checkpoint it binds nobody
    with pytest.raises(Problems, match=r"\[seed=1\] --workdir.*seed was 0, is now 1"):
        check_points(points, "mine", str(tmp_path))


@pytest.mark.parametrize("data", [True, False])
def test_a_sweep_over_a_folder_of_images_starts_again(tmp_path, monkeypatch, data):
    """faults C9: its run folders have the records that a run makes of a folder, and were taken for others."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for number in range(40):
        folder = tmp_path / "photos" / ("cat" if number % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(make_image(number))
    values = {"data.source": ("folder",), "data.path": (str(tmp_path / "photos"),), "eval.suite": ("none",)}
    points = grid(SMOKE, {**values, "objective.preset": ("simclr",), "seed": (0, 1)})
    configs = check_points(points, "mine", str(tmp_path / "out"), data=data)
    for name in configs:
        (tmp_path / "out" / name).mkdir(parents=True)
        save_config(prepare_folder(configs[name]), tmp_path / "out" / name, {})
        (tmp_path / "out" / name / "evaluation.json").write_text("{}")
    assert configs.keys() == check_points(points, "mine", str(tmp_path / "out"), data=data).keys()


@pytest.mark.parametrize("name", ["nowhere.py", "ablations/tmperature"])
def test_a_grid_that_is_not_there_is_the_mistake_of_its_own_flag(name):
    with pytest.raises(ConfigError, match=r"^--grid = "):
        read_grid(name)

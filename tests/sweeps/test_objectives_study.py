"""configs/studies/objectives.py: all presets that the emoji can feed, with two seeds at equal steps."""

import pathlib

from xsample_jax.config import load_config
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.sweeps.grid import read_grid, unchanged

STUDY = pathlib.Path(__file__).parent.parent.parent / "configs" / "studies" / "objectives.py"
NEED_MORE = {"seed", "norm_direction", "distill_clip", "sbcl", "weighted_draws"}  # a finished run, or files


def test_every_preset_is_there_once_for_each_seed():
    for argument, seeds in (("", 2), (":short", 2), (":smoke", 1)):
        name, points = read_grid(f"{STUDY}{argument}")
        levels = unchanged(points)
        assert set(levels) == set(PRESETS) - NEED_MORE
        assert {len(found) for found in levels.values()} == {seeds}
        assert [point.values["seed"] for point in points] == sorted(point.values["seed"] for point in points)
        if argument == ":short":  # the kinds with steps or batches of their own, as every config takes a while to read
            kinds = ("simclr", "cacr", "coconut", "prototypical")
            chosen = [load_config(levels[one][0].config, levels[one][0].overrides(name)) for one in kinds]
            assert {(config.steps, config.batch_size) for config in chosen} == {(80, 256)}
            assert [config.views for config in chosen] == [2, 3, 2, 2]
            assert chosen[2].data.tasks.count * chosen[2].data.tasks.steps == 80

"""From the JSON of benchmarks to table, figures and exit status."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from benchmarks import all as everything
from benchmarks.figures import draw
from benchmarks.report import at_most, faster, less_is_better, write_json
from benchmarks.table import failures, markdown, misses
from benchmarks.timing import Times
from xsample_jax.errors import DataError

ROOT = pathlib.Path(__file__).parent.parent.parent


def found(benchmark, *comparisons, missing=(), **facts):
    rows = [dataclasses.asdict(c) | {"passed": c.passed} for c in comparisons]
    about = {"machine": "x86_64", "cpu": "a CPU", "cores": 2, "jax": "1.2", "date": "2026-01-02", "seconds": 3.0}
    about |= {"command": f"python -m benchmarks.{benchmark}", "unit": "MiB", "benchmark": benchmark}
    return about | {"missing": [*missing], "comparisons": rows} | facts


SLOW = faster("decode late", Times(1, 1), Times(1, 1), 2.0)
LARGE = less_is_better("comm_bytes wire", 2.0, 2.0, 3.0)


@pytest.fixture
def record():
    by_rows = {"2048": 1.0, "4096": 4.0}
    steps = {"resnet18": {"ours": 50.0, "torch": 60.0}}
    return {
        "loss_cpu": found("loss_cpu", cpu_seconds={"ours": by_rows, "torch eager": by_rows}, floor=by_rows),
        "loss_cpu:8192": found("loss_cpu", cpu_seconds={"ours": {"8192": 16.0}}, floor={"8192": 9.0}),
        "loss_memory": found("loss_memory", mib={"ours": by_rows}, inputs=by_rows, machine_mib=9e3),
        "decode": found("decode", SLOW, images_per_second_and_core={"pixels of 500 x 375": {"ours": 900.0}}),
        "pipeline": found(
            "pipeline", missing=["torch"],
            images_per_second_and_core={"delivered, 500 x 375": 400.0, "PIL blur": 90.0, "torchvision blur": 50.0},
        ),
        "step_cpu:resnet18": found("step_cpu", images_per_second=steps, limit={"resnet18": 200.0}),
        "comm_bytes": found(
            "comm_bytes", LARGE, at_most("comm_bytes nothing", 0, 0), received={"ours it is": 2.0, "dense": 9.0},
            ours=["ours it is"], limit=2.0, rows=4096, devices=8,
        ),
    }  # fmt: skip


def test_table_has_a_row_for_every_comparison_and_hides_no_loss(record):
    text = markdown(record)
    assert "| `decode`, MiB | late | 1 | 1 | 1.00 | 2.00 | **missed** |" in text
    assert "|  | nothing | 0 | 0 | 1.00 | 1.00 |  |" in text
    assert "torch is not installed" in text
    assert "2026-01-02" in text
    assert "2 x a CPU" in text
    assert "| `python -m benchmarks.decode` | 3 |" in text


def test_only_what_no_machine_can_excuse_is_a_failure(record):
    assert len(misses(record)) == 2
    told = failures(record)
    assert len(told) == 2
    assert "pipeline: torch is not installed" in told
    assert told[1].startswith("comm_bytes wire")


def test_a_panel_of_every_family_in_both_themes(record, tmp_path):
    names = draw(record, tmp_path)
    assert names == ["loss_time", "loss_memory", "pipeline", "step", "traffic"]
    page = (ROOT / "docs" / "notes" / "benchmarks.md").read_text()
    for name in names:
        for theme in ("", "-dark"):
            pixels = np.asarray(Image.open(tmp_path / f"benchmarks_{name}{theme}.png").convert("RGB"))
            assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20
            assert f"benchmarks_{name}{theme}.png" in page
    assert draw({"comm_bytes": record["comm_bytes"]}, tmp_path) == ["traffic"]


def test_every_cpu_benchmark_is_in_the_suite():
    # soak takes as long as it is told, and says what it found in bits; loss_tpu asks the compiler of TPUs.
    on_their_own = {"soak", "loss_tpu"}
    modules = {
        path.stem
        for path in (ROOT / "benchmarks").glob("*.py")
        if "finish(" in path.read_text() and path.stem != "report"
    }
    gpu = {name for name in modules if "gpu" in name}
    assert {module for module, *_ in everything.SUITE.values()} == modules - on_their_own - gpu


def test_a_benchmark_that_prints_no_json_is_broken_not_passed(monkeypatch, capfd):
    monkeypatch.setitem(everything.SUITE, "none", ("no_such_benchmark",))
    assert everything.run("none") is None
    assert "none broke" in capfd.readouterr().out


def test_a_record_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    """faults B6: a stopped run left half of the record of all benchmarks, which the next one could not read."""
    record = tmp_path / "record.json"
    write_json(record, {"decode": 1})

    def half(self, text, *arguments, **options):
        self.write_bytes(text[:3].encode())
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_text", half)
    with pytest.raises(DataError, match="Make room"):
        write_json(record, {"decode": 2})
    monkeypatch.undo()
    assert json.loads(record.read_text()) == {"decode": 1}
    for name in ("all", "slices", "gpu_suite"):
        assert "write_text(json" not in (ROOT / "benchmarks" / f"{name}.py").read_text()

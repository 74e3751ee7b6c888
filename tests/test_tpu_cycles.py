"""What is read off programs compiled for TPUs (benchmarks/tpu_cycles.py)."""

import pytest

from benchmarks.tpu_cycles import bundles, estimated_cycles

PROGRAM = """
%body.1 (arg: (s32[], f32[8])) -> (s32[], f32[8]) {
  %a = f32[8]{0} fusion(%x), backend_config={"window_config":{"estimated_cycles":"100"}}
  %b = f32[8]{0} fusion(%a), backend_config={"estimated_cycles":"20"}
}

%inside (p: f32[8]) -> f32[8] {
  %c = f32[8]{0} add(%p, %p), backend_config={"estimated_cycles":"5000"}
}

ENTRY %main.2 (z: f32[8]) -> f32[8] {
  %d = f32[8]{0} fusion(%z), calls=%inside, backend_config={"estimated_cycles":"3"}
  %while.4 = (s32[], f32[8]) while(%t), condition=%cond, body=%body.1
}
"""


def test_a_loop_counts_with_its_iterations():
    assert estimated_cycles(PROGRAM, iterations=10) == 3 + 10 * 120


def test_loops_within_loops_are_refused():
    nested = PROGRAM.replace("%b = f32[8]{0} fusion(%a)", "%b = (f32[8]) while(%a), condition=%c, body=%inside")
    with pytest.raises(ValueError, match="a loop within a loop"):
        estimated_cycles(nested, iterations=10)


def test_bundles_of_the_newest_dump(tmp_path):
    for time, count in ((1, 70), (2, 80)):
        path = tmp_path / f"{time}-jvp_xclr_sums_.1-71-schedule-analysis_final_bundles.txt"
        path.write_text(f"Schedule analysis:\n\ttotal scheduled bundles: 99\n\tnon empty scheduled bundles: {count}\n")
    assert bundles(tmp_path, "xclr_sums") == 80
    with pytest.raises(FileNotFoundError, match="no machine code of other"):
        bundles(tmp_path, "other")

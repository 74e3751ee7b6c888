"""Files that are complete or not there, also where two processes write one at once."""

import errno
import os
import threading

import numpy as np
import pytest
from PIL import Image

from xsample_jax.errors import DataError
from xsample_jax.io.files import LEFT_BEHIND, _remove_old, atomic_write
from xsample_jax.reports.contact_sheet import contact_sheet, gallery_sheet
from xsample_jax.reports.style import draw_panel
from xsample_jax.sweeps.kept import read_units, write_units


def test_two_writers_of_one_file_share_no_half_of_it(tmp_path):
    """faults B4: the temporary name was fixed, so that each removed or filled the other's."""
    path = tmp_path / "x.json"

    def outer(partial):
        partial.write_text("outer, ")
        atomic_write(path, lambda other: other.write_text("inner"))
        assert path.read_text() == "inner"
        with partial.open("a") as file:
            file.write("whole")

    atomic_write(path, outer)
    assert path.read_text() == "outer, whole"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.json"]


def test_many_writers_at_once(tmp_path):
    """faults B4: sweeps on several machines write the units that their results share."""
    units, failed = np.arange(5000), []

    def write():
        try:
            for _ in range(20):
                name = write_units(tmp_path, units)
                (tmp_path / "units" / f"{name}.json").unlink(missing_ok=True)
                write_units(tmp_path, units)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert np.array_equal(read_units(tmp_path, write_units(tmp_path, units)), units)


@pytest.mark.parametrize("name", ["x", "x" * 250, "\u00fc" * 120])
def test_a_name_may_be_as_long_as_any_and_rights_are_as_usual(tmp_path, name):
    before = os.umask(0o027)
    try:
        atomic_write(tmp_path / name, lambda partial: partial.write_text(""))
    finally:
        os.umask(before)
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o640


def test_what_killed_processes_have_left_goes(tmp_path):
    """faults B4: what is young may still be written by another process, and what others name so is theirs."""
    kept = [".x.0123abcd.partial", ".theirs.partial", "x.0123abcd.partial", ".x.0123abcd"]
    for name in (*kept, ".x.89abcdef.partial"):
        (tmp_path / name).write_text("half")
    for name in (*kept[1:], ".x.89abcdef.partial"):
        old = (tmp_path / name).stat().st_mtime - LEFT_BEHIND - 10
        os.utime(tmp_path / name, (old, old))
    _remove_old.cache_clear()
    atomic_write(tmp_path / "y", lambda partial: partial.write_text(""))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, "y"])


def test_a_figure_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    """faults B6: figures and contact sheets were written in place, and half of one was left."""
    images = [[np.zeros((4, 4, 3), np.uint8)]]
    sheet = contact_sheet(images, ["before"], tmp_path / "sheet.png")
    before = sheet.read_bytes()

    def half(self, path, *arguments, **options):
        path.write_bytes(before[:20])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(DataError, match="Make room"):
        contact_sheet(images, ["after"], sheet)
    with pytest.raises(DataError, match="Make room"):
        gallery_sheet(images[0], ["after"], sheet)
    assert sheet.read_bytes() == before
    with pytest.raises(DataError, match="Make room"):
        draw_panel(tmp_path, "panel", "title", "caption", lambda figure, theme: figure.subplots())
    assert [entry.name for entry in tmp_path.iterdir()] == ["sheet.png"]

import pytest

from tests.data.record_sets import write_set


@pytest.fixture
def folder(tmp_path):
    """The folder of a finished dataset: 25 records of `train` in three shards, 4 of `test`."""
    write_set(tmp_path / "set")
    return tmp_path / "set"

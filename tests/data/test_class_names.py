"""Names of classes: those that merge, and those that only look alike."""

import pytest

from xsample_jax.data.class_texts import spelled_out
from xsample_jax.data.records import open_records
from xsample_jax.data.sources import Mixture
from xsample_jax.data.writer import as_read, look_alikes, write_records
from xsample_jax.errors import DataError


def test_a_set_whose_classes_share_a_name_is_not_mixed(tmp_path):
    """faults C6: two classes of ImageNet are called crane, and would become one."""
    for name, classes in (("a", ["crane", "dog", "crane"]), ("b", ["crane", "dog", "cat"])):
        made = [{"id": n, "image": b"x", "label": n % 3, "captions": []} for n in range(3)]
        write_records(tmp_path / name, name, {"train": made}, classes)
    a, b = (open_records(tmp_path / name, "train") for name in "ab")
    with pytest.raises(DataError, match="crane"):
        Mixture([b, a])
    assert Mixture([b, b]).manifest.class_names == ("crane", "dog", "cat")


@pytest.mark.parametrize("other", ["cafe\u0301", "Caf\u00e9", " caf\u00e9", "caf\u200b\u00e9", "caf\u00e9\u00a0"])
def test_names_that_look_alike_are_found(other):
    """faults C6: equal to the eye, but not to the program."""
    assert look_alikes(["caf\u00e9", other, "dog"]) == [tuple(sorted(("caf\u00e9", other)))]
    assert look_alikes(["caf\u00e9", "caf\u00e9", "cafe"]) == []
    assert as_read("\u200b \u00a0") == ""


def test_underscores_of_folder_names_become_spaces_in_class_texts():
    """faults C6: names of folders are words."""
    assert spelled_out(["golden_retriever", "a__b", "_"]) == ["golden retriever", "a b", "_"]

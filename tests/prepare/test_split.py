"""Splits by key."""

import subprocess
import sys

import pytest

from xsample_jax.errors import DataError
from xsample_jax.prepare.shards import key_hash, parse_splits, split_of


def test_shares_are_met_and_order_does_not_matter():
    shares = {"train": 0.9, "val": 0.08, "test": 0.02}
    keys = [f"{number:09d}" for number in range(20_000)]
    found = [split_of(key_hash(key), shares) for key in keys]
    for name, share in shares.items():
        # four standard deviations of a binomial count
        assert abs(found.count(name) - 20_000 * share) < 4 * (20_000 * share * (1 - share)) ** 0.5
    assert [split_of(key_hash(key), shares) for key in reversed(keys)] == found[::-1]


def test_an_image_stays_in_training_when_validation_shrinks():
    keys = [str(number) for number in range(2000)]
    before = {key for key in keys if split_of(key_hash(key), {"train": 0.8, "val": 0.2}) == "train"}
    after = {key for key in keys if split_of(key_hash(key), {"train": 0.9, "val": 0.1}) == "train"}
    assert before < after


def test_the_hash_is_the_same_in_another_process():
    code = "from xsample_jax.prepare.shards import key_hash; print(key_hash('000000012'))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(found) == key_hash("000000012")


def test_parse():
    assert parse_splits("train=0.98,val=0.02") == {"train": 0.98, "val": 0.02}
    assert parse_splits("all") == {"all": 1.0}
    assert parse_splits("2017=1") == {"2017": 1.0}  # as everywhere that splits are named
    for text in ("train=0.5", "train=2,val=-1", "train=x", "", "tr-ain=1", "../x=1"):
        with pytest.raises(DataError, match="--splits"):
            parse_splits(text)

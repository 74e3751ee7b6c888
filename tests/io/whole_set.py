"""A process that reads every record of the set of tests/io/test_shard_cache.py: python -m tests.io.whole_set FOLDER."""

import sys

from tests.io.test_shard_cache import assert_whole, config_of
from xsample_jax.data.sources import open_source

if __name__ == "__main__":
    assert_whole(open_source(config_of(sys.argv[1], "disk"), "train"))

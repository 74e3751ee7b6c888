"""Whether two manifests describe the same embeddings."""

from xsample_jax.data.records import differing


def test_what_describes_the_same_embeddings():
    old = {"name": "m", "revision": "sha256:1", "dim": 2}
    new = old | {"max_length": 77, "dtype": "float32", "stored": "float16", "prompt": "find: "}
    assert differing(old, new) == differing(new, old) == {}
    assert differing(new, new | {"max_length": 8, "dtype": "bfloat16"}) == {"max_length": 77, "dtype": "float32"}
    assert differing(old, new | {"stored": "int8", "prompt": "x"}) == {"stored": "float16"}
    assert differing(old, old | {"rounded_to": 1}) == {"rounded_to": None}
    assert differing(old | {"revision": "unknown"}, old | {"revision": "unknown"}) == {"revision": "unknown"}

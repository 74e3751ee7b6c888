"""The `text_encoder` of a manifest: whether two of them describe the same embeddings."""

from collections.abc import Mapping

IF_ABSENT = {"stored": "float16", "dtype": "float32"}
PRECISION = {"stored", "dtype", "rounded_to"}  # how exactly the vectors of a model are kept: they stay near each other


def differing(old: Mapping, new: Mapping) -> dict:
    """Entries of `old`, a `text_encoder`, in which `new` differs; {} where both describe the same embeddings.

    Sets of earlier versions do not say to what length texts were cut, nor a prompt: that counts as the same. Weights
    that are not known are those of no other.
    """
    unsaid = {"max_length", "prompt"} - (old.keys() & new.keys())
    one, other = IF_ABSENT | {**old}, IF_ABSENT | {**new}
    return {
        key: one.get(key)
        for key in one | other
        if key not in unsaid and (one.get(key) != other.get(key) or (key, one.get(key)) == ("revision", "unknown"))
    }

"""Wrong captions for a share of the training images (data.caption_noise): those of another image, with embeddings."""

from collections.abc import Callable

from xsample_jax.data.chance import number, share
from xsample_jax.data.some_records import first_records
from xsample_jax.errors import DataError


def wrong_captions(source, noise: float, seed: int) -> Callable[[dict], dict]:
    """Returns the function that gives a record the captions of another record of `source`, or does not.

    More noise changes more records beside those that less noise changes. Raises DataError for a set without captions,
    or with a single record.
    """
    if len(source) < 2 or not any(record["captions"] for record in first_records(source)):
        raise DataError("data.caption_noise", noise, "0 for a set without captions")

    def change(record: dict) -> dict:
        if share("caption noise", seed, record["id"]) >= noise:
            return record
        place = number("noisy caption", seed, record["id"]) % len(source)
        other = source[place]
        if other["id"] == record["id"]:
            other = source[(place + 1) % len(source)]
        return record | {name: other[name] for name in ("captions", "caption_embeddings")}

    return change

"""Wrong labels for a share of the training images (data.label_noise): any other class, each with the same chance."""

from collections.abc import Callable

from xsample_jax.data.chance import number, share
from xsample_jax.errors import DataError


def wrong_labels(source, noise: float, seed: int) -> Callable[[dict], dict]:
    """Returns the function that changes the label of a record, or does not.

    Records without a label (-1) stay as they are. More noise changes more records beside those that less noise changes.
    Raises DataError for a set without classes.
    """
    classes = len(source.manifest.class_names)
    if classes < 2:
        raise DataError("data.label_noise", noise, "0 for a set that does not name at least two classes")

    def change(record: dict) -> dict:
        if record["label"] < 0 or share("label noise", seed, record["id"]) >= noise:
            return record
        step = 1 + number("noisy label", seed, record["id"]) % (classes - 1)
        return record | {"label": (record["label"] + step) % classes}

    return change

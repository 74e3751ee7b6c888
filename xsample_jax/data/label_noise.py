"""Wrong labels for a share of the training images (data.label_noise): any other class, each with the same chance."""

from collections.abc import Callable

import numpy as np

from xsample_jax.data.chance import number, share
from xsample_jax.errors import DataError


def wrong_labels(labels: np.ndarray, noise: float, seed: int) -> Callable[[dict], dict]:
    """Returns the function that changes the label of a record, or does not.

    Records without a label (-1) stay as they are. More noise changes more records beside those that less noise changes.
    Classes of which the training split has no image are nobody's wrong label: nothing is known of them, their text
    neither.

    Args:
      labels: int [records] of the training split.

    Raises DataError for a split with fewer than two classes.
    """
    classes = np.unique(labels[labels >= 0]).tolist()
    if len(classes) < 2:
        raise DataError("data.label_noise", noise, "0 for a set without labels of at least two classes")
    place = {label: number for number, label in enumerate(classes)}

    def change(record: dict) -> dict:
        if record["label"] < 0 or share("label noise", seed, record["id"]) >= noise:
            return record
        step = 1 + number("noisy label", seed, record["id"]) % (len(classes) - 1)
        return record | {"label": classes[(place[record["label"]] + step) % len(classes)]}

    return change

"""What is read of every record before training: a record that is broken does not end it there."""

import numpy as np

from xsample_jax.data.class_texts import load_class_embeddings
from xsample_jax.data.records import RecordSource, open_records
from xsample_jax.data.sources import read_labels
from xsample_jax.data.writer import write_records
from xsample_jax.errors import DataError


class OneBroken(RecordSource):
    def __getitem__(self, index):
        if index == 1:
            raise DataError("record", "1", "one that can be read")
        return super().__getitem__(index)


def test_a_broken_record_has_no_label_and_no_share_in_its_class(tmp_path):
    """Whether it ends the run is data.on_error's to say, when it is drawn."""
    encoder = {"name": "m", "revision": "r", "pooling": "mean", "dim": 2, "normalised": True, "template": "{caption}"}
    records = [
        {
            "id": i,
            "image": b"x",
            "label": i % 2,
            "captions": ["x"],
            "caption_embeddings": np.eye(2, dtype=np.float16)[[i % 2]],
        }
        for i in range(4)
    ]
    write_records(tmp_path, "set", {"train": records}, ["mine", "yours"], text_encoder=encoder)
    whole = open_records(tmp_path, "train")
    source = OneBroken(whole.folder, "train", whole.manifest, 3)
    np.testing.assert_array_equal(read_labels(source), [0, -1, 0, 1])
    np.testing.assert_array_equal(load_class_embeddings(tmp_path, source), np.eye(2))

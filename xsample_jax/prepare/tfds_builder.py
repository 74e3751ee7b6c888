"""A record set as a data set of TFDS, so that whatever reads TFDS reads it too. Needs no TensorFlow."""

import importlib.resources
import io
import re
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from xsample_jax.data.manifest import read_manifest
from xsample_jax.data.record_reader import open_records
from xsample_jax.errors import DataError

# TFDS 4.9.10 imports the backport of this module when it prepares a set, and does not install it.
sys.modules.setdefault("importlib_resources", importlib.resources)

import tensorflow_datasets as tfds  # noqa: E402


class RecordSet(tfds.core.GeneratorBasedBuilder):
    """Reads the record set in `folder`; `options` are those of every TFDS builder (data_dir, ...).

    Features: `image` (JPEG or PNG as it is stored, other formats as PNG), `id`, `label` (-1: none; a class label where
    the set names its classes), `captions`, and where the set has them `caption_embeddings` float16 [captions, E] and
    `attributes` (class labels).
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, folder: str | Path, **options):
        self._folder, self._manifest = Path(folder), read_manifest(folder)
        self.name = re.sub(r"\W+", "_", self._manifest.name.lower())
        self._splits = [split for split, entry in self._manifest.splits.items() if entry["count"]]
        if not self._splits:
            raise DataError("--set", str(folder), "a set with records")
        first = open_records(folder, self._splits[0])[0]
        self._alpha = Image.open(io.BytesIO(first["image"])).has_transparency_data
        super().__init__(file_format="array_record", **options)

    def prepare(self) -> None:
        """Writes the data set, unless it is there; DataError where what is there is another set."""
        self.download_and_prepare()
        written = tfds.builder_from_directory(self.data_path).info.description
        if f"fingerprint {self._manifest.fingerprint}," not in written:
            fix = "Remove it, or give another --out."
            raise DataError("--out", self.data_path, "a folder without another set of this name", fix)

    def _info(self) -> tfds.core.DatasetInfo:
        manifest, features = self._manifest, tfds.features
        entries = {
            "image": features.Image(shape=(None, None, 4 if self._alpha else 3), encoding_format="png"),
            "id": np.int64,
            "label": features.ClassLabel(names=manifest.class_names) if manifest.class_names else np.int64,
            "captions": features.Sequence(features.Text()),
        }
        if manifest.text_encoder:
            shape = (None, manifest.text_encoder["dim"])
            entries["caption_embeddings"] = features.Tensor(shape=shape, dtype=np.float16)
        if manifest.attributes:
            entries["attributes"] = {name: features.ClassLabel(names=n) for name, n in manifest.attributes.items()}
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"Record set {manifest.name}, fingerprint {manifest.fingerprint}, of xsample_jax.",
            features=features.FeaturesDict(entries),
        )

    def _split_generators(self, dl_manager) -> dict:
        return {split: self._generate_examples(split) for split in self._splits}

    def _generate_examples(self, split: str):
        for record in open_records(self._folder, split):
            example = {name: record[name] for name in self.info.features if name != "image"}
            if example.get("caption_embeddings", self) is None:  # of an embedded set, where this one has no caption
                example["caption_embeddings"] = np.zeros((0, self._manifest.text_encoder["dim"]), np.float16)
            yield record["id"], example | {"image": io.BytesIO(self._picture(record["image"]))}

    def _picture(self, data: bytes) -> bytes:
        """JPEG and PNG as they are, anything else as PNG: what every reader of TFDS decodes. As the first picture of
        the set, all have alpha or none; what has it all the same is put on white, as when it is trained on."""
        picture = Image.open(io.BytesIO(data))
        if picture.format in ("JPEG", "PNG") and picture.has_transparency_data == self._alpha:
            return data
        picture, out = picture.convert("RGBA"), io.BytesIO()
        if not self._alpha:
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
        picture.save(out, "PNG")
        return out.getvalue()

"""TFDS datasets through `tfds.data_source`, without TensorFlow: imagenet2012, cifar10, your own builders."""

import contextlib
import hashlib
import importlib.resources
import io
import json
import re
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from xsample_jax.data.decode import on_white, open_image
from xsample_jax.data.records import open_records, read_manifest
from xsample_jax.data.vectors import is_vector
from xsample_jax.errors import DataError
from xsample_jax.prepare.example import (
    Example,
    Fields,
    InputShard,
    Problem,
    Source,
    is_unasked,
    label_entry,
    read_captions,
    read_column,
    read_label,
    texts_are_names,
    unread_texts,
)


def tfds_source(path: str, fields: Fields, shard_size: int = 10_000) -> Source:
    """All splits of a dataset that TFDS has prepared in the array_record format.

    Args:
      path: a name as TFDS knows it ("cifar10", "imagenet2012:5.1.0"), or the folder of a prepared version
        (.../imagenet2012/5.1.0).
      fields: features of captions and label; by default the first of USUAL_CAPTIONS and USUAL_LABELS.
      shard_size: examples per input shard.
    """
    builder = _builder(path)
    features = builder.info.features
    if "image" not in features:
        raise DataError("--path", path, "a dataset with a feature named image", f"It has {', '.join(features)}.")
    for name in (*fields.captions, *([fields.label] if fields.label else [])):
        if name.partition("/")[0] not in features:
            expected = f"features of {path}: {', '.join(features)} (FEATURE/NAME for one inside a sequence)"
            raise DataError("--caption_fields, --label_field", name, expected)
    _check_prepared(builder, path)
    label = label_entry(fields, features)
    names = tuple(getattr(features[label], "names", None) or ()) if label in features else ()
    attributes, notes = _attributes(features), []
    if "caption_embeddings" in features:
        notes.append("The feature caption_embeddings is not read: tools.embed makes embeddings again.")
    if names and fields.class_names:
        raise DataError(
            "--class_names", fields.class_names[:3], f"nothing, as {path} names its classes", "Leave it out."
        )
    shards, files = [], _digest_of_files(Path(builder.data_path))
    for split, info in builder.info.splits.items():
        for start in range(0, info.num_examples, shard_size):
            stop = min(start + shard_size, info.num_examples)
            name = f"{builder.info.full_name} {split} {start} {stop}"
            identity = f"{name} {fields.captions} {fields.label} {files}"
            read = partial(read_range, path, split, start, stop, fields, tuple(attributes))
            shards.append(InputShard(name, read, identity, split))
    classes = {"class_names": names or fields.class_names, "labels_are_names": texts_are_names(fields.class_names)}
    texts = fields.label in features and isinstance(features[label], tfds.features.Text)
    if texts and not classes["class_names"]:
        labels = {read_label(example, label) for split in builder.info.splits for example in _examples(builder, split)}
        _, found, more = read_column(sorted(labels, key=str))
        classes, notes = classes | found, [*notes, *more]
    notes += unread_texts(sorted(_texts_in(features)), fields)
    return Source(tuple(shards), attributes=attributes, notes=tuple(notes), **classes)


def _texts_in(features, before: str = "") -> Iterator[str]:
    """The names of the features of texts, as --caption_fields takes them: "captions/text" is inside a sequence."""
    for name, kind in features.items():
        inner = kind.feature if isinstance(kind, tfds.features.Sequence) else kind
        if isinstance(inner, tfds.features.Text):
            yield before + name
        elif isinstance(inner, tfds.features.FeaturesDict) and not before:
            yield from _texts_in(inner, f"{name}/")


def _attributes(features) -> dict[str, tuple[str, ...]]:
    """{name: names of its values} of the class labels in a feature `attributes`, which to_tfds writes."""
    inner = dict(features.items()).get("attributes")
    found = inner.items() if isinstance(inner, tfds.features.FeaturesDict) else ()
    return {name: tuple(kind.names) for name, kind in found if isinstance(kind, tfds.features.ClassLabel)}


def _examples(builder, split: str):
    return builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})


def read_range(
    path: str, split: str, start: int, stop: int, fields: Fields, attributes: tuple[str, ...] = ()
) -> Iterator[Example | Problem]:
    """Yields the examples `start` to `stop` of a split, images as the bytes that TFDS stores."""
    try:
        examples = _examples(_builder(path), split)
    except Exception as error:  # of every family: TFDS, array_record, the file system
        fix = "Prepare it with TFDS again."
        raise DataError(f"split {split} of {path}", str(error)[:200], "files that can be read", fix) from error
    for i in range(start, stop):
        try:
            example = examples[i]
        except Exception as error:  # array_record raises bare RuntimeError for a damaged record
            yield Problem(f"{split}/{i}", "broken_record", str(error)[:200])
            continue
        try:
            captions = read_captions(example, fields.captions)
            label = read_label(example, fields.label)
        except DataError as error:
            yield Problem(f"{split}/{i}", "broken_metadata", str(error))
            continue
        if is_unasked(label, fields):
            yield Problem(f"{split}/{i}", "unknown_label", label[:80])
            label = None
        values = {name: int(example["attributes"][name]) for name in attributes}
        yield Example(f"{split}/{i}", example["image"], captions, label, values)


def _check_prepared(builder, path: str) -> None:
    """DataError where the set is not there yet, or in a format that only TensorFlow reads."""
    fix = f"Prepare it: tfds.builder({path!r}, file_format='array_record').download_and_prepare()."
    if not builder.info.splits:
        raise DataError("--path", path, "a dataset that TFDS has prepared", fix)
    if builder.info.file_format.value != "array_record":
        raise DataError("--path", path, f"array_record files, not {builder.info.file_format.value}", fix)


def _digest_of_files(folder: Path) -> str:
    """SHA-256 (hex) of name, size and time of every file of a prepared version: one made anew has the same name."""
    stats = [(file.name, file.stat()) for file in sorted(folder.iterdir()) if file.is_file()]
    about = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def _builder(path: str):
    import tensorflow_datasets as tfds

    try:
        if Path(path).is_dir():
            return tfds.builder_from_directory(path)
        return tfds.builder(path, file_format="array_record")
    except (OSError, ValueError, tfds.core.DatasetNotFoundError) as error:
        expected = "a TFDS name, or the folder of a prepared version"
        raise DataError("--path", path, expected, str(error).strip().splitlines()[0][:200]) from error


# A dataset as a dataset of TFDS, so that whatever reads TFDS reads it too. Needs no TensorFlow.


# TFDS 4.9.10 imports the backport of this module when it prepares a set, and does not install it.
sys.modules.setdefault("importlib_resources", importlib.resources)


def _has_alpha(record: dict) -> bool:
    with contextlib.suppress(OSError):  # not an image: found when it is written
        return Image.open(io.BytesIO(record["image"])).has_transparency_data
    return False


class RecordSet(tfds.core.GeneratorBasedBuilder):
    """Reads the dataset in `folder`; `options` are those of every TFDS builder (data_dir, ...).

    Features: `image` (JPEG or PNG as it is stored, other formats as PNG), `id`, `label` (-1: none; a class label where
    the set names its classes), `captions`, and where the set has them `caption_embeddings` float16 [captions, E] and
    `attributes` (class labels).
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, folder: str | Path, **options):
        from xsample_jax.data.sources import sampled_records  # loads jax, which reading TFDS does not need

        self._folder, self._manifest = Path(folder), read_manifest(folder)
        self.name = re.sub(r"\W+", "_", self._manifest.name.lower())
        self._splits = [split for split, entry in self._manifest.splits.items() if entry["count"]]
        if not self._splits:
            raise DataError("--set", str(folder), "a set with records")
        if is_vector(next(sampled_records(open_records(folder, self._splits[0])))["image"]):
            raise DataError("--set", str(folder), "a set of images: this one has vectors in their place")
        sample = (record for split in self._splits for record in sampled_records(open_records(folder, split)))
        self._alpha = bool(np.mean([_has_alpha(record) for record in sample]) > 0.5)
        super().__init__(file_format="array_record", **options)

    def prepare(self) -> None:
        """Writes the dataset, unless it is there; DataError where what is there is another set."""
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
            description=f"dataset {manifest.name}, fingerprint {manifest.fingerprint}, of xsample_jax.",
            features=features.FeaturesDict(entries),
        )

    def _split_generators(self, dl_manager) -> dict:
        return {split: self._generate_examples(split) for split in self._splits}

    def _generate_examples(self, split: str):
        for record in open_records(self._folder, split):
            example = {name: record[name] for name in self.info.features if name != "image"}
            if example.get("caption_embeddings", self) is None:  # of an embedded set, where this one has no caption
                example["caption_embeddings"] = np.zeros((0, self._manifest.text_encoder["dim"]), np.float16)
            yield record["id"], example | {"image": io.BytesIO(self._image(record["image"]))}

    def _image(self, data: bytes) -> bytes:
        """JPEG and PNG as they are, anything else as PNG: what every reader of TFDS decodes. All have alpha where
        most of a sample of the set do, else none: what has it is put on white, as when it is trained on."""
        image = Image.open(io.BytesIO(data))
        if image.format in ("JPEG", "PNG") and image.has_transparency_data == self._alpha:
            return data
        pixels, out = open_image(data, max(image.size)), io.BytesIO()
        image = Image.fromarray(pixels).convert("RGBA") if self._alpha else Image.fromarray(on_white(pixels))
        image.save(out, "PNG")
        return out.getvalue()

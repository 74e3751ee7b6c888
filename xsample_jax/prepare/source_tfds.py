"""TFDS data sets through `tfds.data_source`, without TensorFlow: imagenet2012, cifar10, your own builders."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from xsample_jax.errors import DataError
from xsample_jax.prepare.example import Example, InputShard, Problem, Source
from xsample_jax.prepare.fields import Fields, read_captions, read_label


def tfds_source(path: str, fields: Fields, shard_size: int = 10_000) -> Source:
    """All splits of a data set that TFDS has prepared in the array_record format.

    Args:
      path: a name as TFDS knows it ("cifar10", "imagenet2012:5.1.0"), or the folder of a prepared version
        (.../imagenet2012/5.1.0).
      fields: features of captions and label; by default caption, captions and label.
      shard_size: examples per input shard.
    """
    builder = _builder(path)
    features = builder.info.features
    if "image" not in features:
        raise DataError("--path", path, "a data set with a feature named image", f"It has {', '.join(features)}.")
    for name in (*fields.captions, *([fields.label] if fields.label else [])):
        if name not in features:
            raise DataError("--caption_fields, --label_field", name, f"features of {path}: {', '.join(features)}")
    _check_prepared(builder, path)
    label = fields.label or "label"
    names = tuple(getattr(features[label], "names", None) or ()) if label in features else ()
    if names and fields.class_names:
        raise DataError(
            "--class_names", fields.class_names[:3], f"nothing, as {path} names its classes", "Leave it out."
        )
    shards = []
    for split, info in builder.info.splits.items():
        for start in range(0, info.num_examples, shard_size):
            stop = min(start + shard_size, info.num_examples)
            name = f"{builder.info.full_name} {split} {start} {stop}"
            identity = f"{name} {fields.captions} {fields.label}"
            shards.append(InputShard(name, partial(read_range, path, split, start, stop, fields), identity, split))
    return Source(tuple(shards), names or fields.class_names)


def read_range(path: str, split: str, start: int, stop: int, fields: Fields) -> Iterator[Example | Problem]:
    """Yields the examples `start` to `stop` of a split, pictures as the bytes that TFDS stores."""
    import tensorflow_datasets as tfds

    examples = _builder(path).as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
    for i in range(start, stop):
        example = examples[i]
        try:
            captions = read_captions(example, fields.captions, ("caption", "captions"))
            label = read_label(example, fields.label)
        except DataError as error:
            yield Problem(f"{split}/{i}", "broken_metadata", str(error))
            continue
        yield Example(f"{split}/{i}", example["image"], captions, label)


def _check_prepared(builder, path: str) -> None:
    """DataError where the set is not there yet, or in a format that only TensorFlow reads."""
    fix = f"Prepare it: tfds.builder({path!r}, file_format='array_record').download_and_prepare()."
    if not builder.info.splits:
        raise DataError("--path", path, "a data set that TFDS has prepared", fix)
    if builder.info.file_format.value != "array_record":
        raise DataError("--path", path, f"array_record files, not {builder.info.file_format.value}", fix)


def _builder(path: str):
    import tensorflow_datasets as tfds

    try:
        if Path(path).is_dir():
            return tfds.builder_from_directory(path)
        return tfds.builder(path, file_format="array_record")
    except (OSError, ValueError, tfds.core.DatasetNotFoundError) as error:
        expected = "a TFDS name, or the folder of a prepared version"
        raise DataError("--path", path, expected, str(error).strip().splitlines()[0][:200]) from error

"""The decoded examples of a split, with the side information that an objective reads, or why the set lacks it."""

import copy

from xsample_jax.captions.tokenizer import load_tokenizer
from xsample_jax.data.mixture import Mixture
from xsample_jax.data.pipeline import Examples
from xsample_jax.data.some_records import first_records
from xsample_jax.data.sources import open_source, open_training_source, source_folder
from xsample_jax.errors import DataError, raise_all
from xsample_jax.objectives.build import build_objective, presets_that_read


def open_examples(config, split: str, fields: frozenset[str], source=None) -> Examples:
    """The decoded examples of a split, or of `source`, with the entries in `fields`; DataError when it lacks one."""
    source = open_source(config.data, split) if source is None else source
    check_not_empty(source)
    check_side_information(fields, source)
    folder = source_folder(config.data)
    tokenizer = load_tokenizer(folder) if "caption_tokens" in fields else None
    return Examples(
        source,
        config.data.image_size,
        config.data.caption,
        fields,
        on_error=config.data.on_error,
        tokenizer=tokenizer,
        length=config.model.text.length,
        hierarchy=tuple(config.data.hierarchy),
    )


def open_evaluated(config, split: str, source=None) -> Examples:
    """The examples of a split as evaluations read them: attributes and, where the set has them, caption embeddings.

    A record without a caption gets an embedding of zeros.
    """
    examples = open_examples(config, split, frozenset({"attributes"}), source)
    if examples.source.manifest.text_encoder is not None:
        examples.fields, examples.zero_captions = examples.fields | {"caption_embedding"}, True
    return examples


def open_for_a_look(config) -> Examples:
    """The examples that a run is trained on, for one who reads a few of them: all labels or records are not read."""
    source, _ = open_training_source(without_cache(config.data))
    return open_examples(config, config.data.split, build_objective(config.objective).requires, source)


def without_cache(data):
    """The section `data` of a config for a set that is opened at once, and of which only a few records are read."""
    data = copy.copy(data)
    with data.unlocked():
        data.balance, data.cache = 0.0, "none"
    return data


def check_not_empty(source) -> None:
    """Raises DataError for a split without records, of a mixture for each."""
    for single in source.sources if isinstance(source, Mixture) else [source]:
        if not len(single):
            raise no_records(single.split, single.folder)


def no_records(split: str, folder) -> DataError:
    """What is said of an empty split."""
    fix = f"Name another split, or prepare {folder} again with a larger share for it."
    return DataError(f"split {split}", 0, "at least one record", fix)


def check_side_information(fields: frozenset[str], source) -> None:
    """Raises DataError (or Problems) for entries in `fields` that no data set, or not this one, can deliver.

    What a set has is read off its manifest and its first records: a set may lack captions here and there, and on some
    sets one record cannot be read.
    """

    def some(test) -> bool:
        return any(test(record) for record in first_records(source))

    labels = bool(source.manifest.class_names) or some(lambda record: record["label"] >= 0)
    has = {
        "label": labels,
        "class_embedding": labels,
        "caption_embedding": source.manifest.text_encoder is not None,
        "caption_tokens": some(lambda record: record["captions"]),
        "path": labels and some(lambda record: record["attributes"]),
        "index": True,
        "attributes": True,
    }
    presets = presets_that_read([name for name, there in has.items() if there])
    fix = f"Presets that this set has all for: {', '.join(presets)}."
    problems = []
    for name in sorted(fields):
        if name not in has:
            problems.append(DataError(f"batch entry {name}", None, "a graph that does not read it: no set has it", fix))
        elif not has[name]:
            expected = "a data set that has it, as the target graph or the text side of this objective reads it"
            problems.append(DataError(f"batch entry {name}", None, expected, fix))
    raise_all(problems, "what the objective reads")

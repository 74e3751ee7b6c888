"""The decoded examples of a split, with the side information that an objective reads, or why the set lacks it."""

from xsample_jax.captions.tokenizer import load_tokenizer
from xsample_jax.data.pipeline import Examples
from xsample_jax.data.sources import open_source, source_folder
from xsample_jax.errors import DataError, raise_all
from xsample_jax.objectives.build import presets_that_read


def open_examples(config, split: str, fields: frozenset[str], source=None) -> Examples:
    """The decoded examples of a split, or of `source`, with the entries in `fields`; DataError when it lacks one."""
    source = open_source(config.data, split) if source is None else source
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


def check_side_information(fields: frozenset[str], source) -> None:
    """Raises DataError (or Problems) for entries in `fields` that no data set, or not this one, can deliver.

    What a set has is read off its manifest and its first record.
    """
    first = source[0]
    labels = bool(source.manifest.class_names) or first["label"] >= 0
    has = {
        "label": labels,
        "class_embedding": labels,
        "caption_embedding": source.manifest.text_encoder is not None,
        "caption_tokens": bool(first["captions"]),
        "path": labels and bool(first["attributes"]),
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

"""What the shapes of a run depend on of its data."""

import dataclasses

from xsample_jax.data.pipeline import Examples


@dataclasses.dataclass(frozen=True)
class DataFacts:
    """What shapes depend on: records in the split, image channels, width of caption embeddings, size of the vocabulary,
    number of classes, depth of the class tree."""

    count: int
    channels: int
    caption_dim: int | None = None
    vocab_size: int | None = None
    classes: int = 1000
    depth: int = 3


# Shapes for compiling a config whose data is elsewhere: RGB photographs, all-mpnet-base-v2 embeddings.
STAND_IN = DataFacts(count=1_281_167, channels=3, caption_dim=768, vocab_size=32_768)


def data_facts(examples: Examples) -> DataFacts:
    """Reads the shapes off the first example."""
    first = examples[0]
    width = lambda name: first[name].shape[-1] if name in first else None  # noqa: E731
    vocab_size = examples.tokenizer.get_vocab_size() if examples.tokenizer is not None else None
    return DataFacts(
        len(examples),
        examples.source.channels,
        width("caption_embedding"),
        vocab_size,
        len(examples.source.manifest.class_names),
        len(examples.hierarchy) + 1,
    )

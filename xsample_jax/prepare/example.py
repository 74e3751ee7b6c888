"""What sources deliver, before any work on it: examples, and problems where there is no example."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator


@dataclasses.dataclass(frozen=True)
class Example:
    """One picture as its source has it.

    Attributes:
      key: its name in the source.
      image: encoded bytes.
      captions: texts as found.
      label: index, name of a class, or None.
      attributes: further labels (see docs/data.md).
      group: pictures of one group go into one split; None: the key decides.
      id: kept where the source has ids of our kind; None: numbered here.
      caption_embeddings: float16 [captions, E], kept where the source has them.
    """

    key: str
    image: bytes
    captions: tuple[str, ...] = ()
    label: int | str | None = None
    attributes: dict = dataclasses.field(default_factory=dict)
    group: str | None = None
    id: int | None = None
    caption_embeddings: object = None


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something in the source that gives no record, or a record that deserves a look.

    Attributes:
      key: of the example, or the name of the file.
      kind: one of KINDS.
      detail: what was found.
    """

    key: str
    kind: str
    detail: str = ""


# Kind -> what it means and what became of it; docs/data.md has the same list.
KINDS = {
    "broken_image": "does not decode: dropped",
    "no_image": "no picture, or its file is missing: dropped",
    "unread_picture": "a picture in a tar that is a link, of another format, or with two dots in its name: not read",
    "broken_metadata": "JSON that cannot be read, or no label or caption where one was asked for: dropped",
    "broken_record": "record that cannot be read: dropped",
    "duplicate_key": "key that this input shard had before: dropped, the first is kept",
    "truncated_tar": "the tar ends too early: what is whole before that place is kept",
    "no_caption": "no caption, or only white space: kept without, or dropped with --require_caption",
    "near_empty_caption": "caption of fewer than 3 letters and digits: kept",
    "cut_caption": "very long caption: cut",
    "not_unicode": "caption with bytes that are not UTF-8: replaced by U+FFFD",
}


@dataclasses.dataclass(frozen=True)
class InputShard:
    """The unit of work: read in one go by one process, lost at most once by a kill.

    Attributes:
      name: of the file or range, for messages.
      read: returns the examples and problems, in the same order every time. Must be picklable.
      identity: of what is read and how: names, sizes, times, rows, fields. Work goes on only where it is the same.
      split: where all of it goes; None: the hash of the key decides.
    """

    name: str
    read: Callable[[], Iterator[Example | Problem]]
    identity: str
    split: str | None = None


@dataclasses.dataclass(frozen=True)
class Source:
    """All input of one set.

    Attributes:
      shards: the units of work, in an order that does not depend on the machine.
      class_names: names of the labels; () when labels are plain numbers or absent.
      attributes: attribute -> names of its values.
      text_encoder: description of the embeddings that the examples bring, or None.
    """

    shards: tuple[InputShard, ...]
    class_names: tuple[str, ...] = ()
    attributes: dict = dataclasses.field(default_factory=dict)
    text_encoder: dict | None = None


def chunks(items: Iterable, size: int) -> Iterator[list]:
    """Yields lists of `size` items; the last may be shorter."""
    chunk = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk

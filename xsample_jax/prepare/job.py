"""What is to be done, as data: everything that the bytes of the result depend on."""

import dataclasses
import functools
import hashlib
import json

from xsample_jax.data.manifest import SCHEMA_VERSION, Manifest
from xsample_jax.data.record_writer import MAX_ID
from xsample_jax.errors import DataError
from xsample_jax.prepare.example import Source
from xsample_jax.prepare.image import ImageOptions


@dataclasses.dataclass(frozen=True)
class Job:
    """One set to make. Equal fingerprints give equal bytes; a folder holds the work of one fingerprint only.

    Attributes:
      name: of the set.
      source: its input shards and what their numbers mean.
      splits: split -> share, for input shards that have no split of their own.
      image: what becomes of pictures.
      require_caption: drop pictures without a caption.
    """

    name: str
    source: Source
    splits: dict
    image: ImageOptions = dataclasses.field(default_factory=ImageOptions)
    require_caption: bool = False

    @property
    def writer_options(self) -> str:
        """Of ArrayRecord. Encoded pictures do not compress: trying costs 7 % of the whole work, and time when read."""
        return "group_size:1,zstd:3" if self.image.raw else "group_size:1,uncompressed"

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the options and of what identifies the input shards."""
        facts = {
            "format": [SCHEMA_VERSION, self.writer_options],
            "name": self.name,
            "splits": list(self.splits.items()),
            "image": dataclasses.asdict(self.image),
            "require_caption": self.require_caption,
            "shards": [[shard.name, shard.identity, shard.split] for shard in self.source.shards],
            "names": [self.source.class_names, self.source.attributes, self.source.text_encoder],
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @functools.cached_property
    def ids_per_shard(self) -> int:
        """Ids of input shard k start at k times this: a power of ten, as large as the number of shards allows."""
        ids = 1
        while ids * 10 * len(self.source.shards) <= MAX_ID:
            ids *= 10
        return ids

    def first_id(self, number: int) -> int:
        return number * self.ids_per_shard

    def empty_manifest(self) -> Manifest:
        """The manifest without its splits: what every record is checked against."""
        source = self.source
        return Manifest(self.name, {}, tuple(source.class_names), dict(source.attributes), source.text_encoder)

    def label_index(self, label: int | str | None, key: str) -> int:
        """Returns the number of a class; DataError for a name that is none of the classes."""
        if label is None:
            return -1
        if isinstance(label, int):
            return max(label, -1)
        if label not in self._numbers:
            expected = "one of the class names" if self._numbers else "a number, as no class names are known"
            raise DataError(
                f"label of {key}",
                label,
                expected,
                "List all names: --class_names=FILE; that is other work, for another --out.",
            )
        return self._numbers[label]

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.source.class_names)}

    def __post_init__(self):
        for name in self.source.class_names:
            try:
                name.encode()
            except UnicodeEncodeError as error:
                raise DataError("class name", ascii(name), "text in UTF-8", "Rename the folder.") from error

"""A job as data: everything that the bytes of its result depend on."""

import contextlib
import dataclasses
import functools
import hashlib
import io
import json

import numpy as np
import simplejpeg
from PIL import Image

from xsample_jax.augment.ids import NARROW
from xsample_jax.data.decode import (
    ALL_FORMATS,
    DAMAGED,
    FITS,
    TIFF_BITS,
    exif_orientation,
    has_exif,
    loses_a_third,
    on_white,
    open_image,
    resized,
    square,
    without_metadata,
)
from xsample_jax.data.records import SCHEMA_VERSION, Manifest
from xsample_jax.data.vectors import is_vector
from xsample_jax.data.writer import MAX_LABEL, as_read, repeated
from xsample_jax.errors import DataError
from xsample_jax.prepare.example import Source, number_in

# An image as records hold it: checked, upright, no larger than needed, in a format that decodes fast.


SMALL_SHARD, LARGE_SHARD = 10_000, 1_000_000  # ids for one input shard
KEPT_FORMATS = {"JPEG", "PNG", "WEBP"}
LOSSLESS_FORMATS = {"PNG", "GIF", "BMP", "TIFF", "PPM"}
DARK = 32  # of 256: cameras and scanners of 10 to 13 bits stay below it when they store their numbers in 16
FULL_SIZE = 2**15  # more than half of any JPEG: it is not shrunk while it is decoded


@dataclasses.dataclass(frozen=True)
class ImageOptions:
    """What becomes of images.

    Attributes:
      size: longest short side in pixels; larger images are shrunk to it, smaller ones stay. None: never shrink.
      quality: of the JPEGs that are written, 1 to 100.
      raw: store a square of `size` as bare uint8 pixels: decoding costs nothing, storage 3 * size**2 bytes.
      fit: what that square is: crop (the center) or pad (the whole image, on gray).
    """

    size: int | None = 256
    quality: int = 92
    raw: bool = False
    fit: str = "crop"

    def __post_init__(self):
        if self.fit not in FITS:
            raise DataError("--fit", self.fit, f"one of {', '.join(FITS)}")
        if self.fit != "crop" and not self.raw:
            raise DataError("--fit", self.fit, "nothing without --raw: other images keep their sides", "Set data.fit.")
        if self.size is not None and self.size < 1:
            raise DataError("--size", self.size, "at least 1 pixel, or 0 for images as they are")
        if not 1 <= self.quality <= 100:
            raise DataError("--quality", self.quality, "1 to 100")
        if self.raw and self.size is None:
            raise DataError("--size", 0, "the side of the square that --raw stores", "Add --size=64, for example.")


def prepare_image(data: bytes, options: ImageOptions) -> tuple[bytes, list[str]]:
    """Decodes an image to the last byte and returns what a record should hold of it.

    A JPEG, PNG or WebP that is upright, 8 bits deep, in RGB, gray or palette colors and not too large stays as it is,
    byte for byte, and so does a vector. All else is encoded again: as JPEG, or as PNG where nothing was lost before
    and nothing is shrunk. Alpha is then composited on white, and of several images the first is taken.

    Returns:
      The bytes, and what is to be counted: turned, cmyk, 16_bit, animated, shrunk; one_color (all pixels alike),
      elongated (the center square loses more than a third of it), dark_16_bit (16 bits, of which the image uses few).

    Raises:
      DataError: the image does not decode, or is too long for a JPEG.
    """
    if is_vector(data):
        return data, []
    pixels = open_image(data, options.size or FULL_SIZE, formats=ALL_FORMATS, reuse=True)
    try:
        kind, sides, changes = _header(data)
    except DAMAGED as error:
        raise DataError("image", str(error)[:200], "an image with a header that can be read") from error
    notes = []
    if "16_bit" in changes and pixels[..., :3].max() < DARK:
        notes.append("dark_16_bit")
    if (pixels[0] == pixels[0, 0]).all() and (pixels == pixels[0, 0]).all():
        notes.append("one_color")
    if loses_a_third(pixels):
        notes.append("elongated")
    prepared, changes = _rewrite(data, pixels, kind, sides, changes, options)
    return prepared, changes + notes


def _rewrite(
    data: bytes, pixels: np.ndarray, kind: str, sides: tuple[int, int], changes: list[str], options: ImageOptions
) -> tuple[bytes, list[str]]:
    if options.raw:
        pixels = square(pixels, options.size, 3, fit=options.fit)
        return b"P6\n%d %d\n255\n" % (options.size, options.size) + pixels.tobytes(), changes
    height, width = pixels.shape[:2]
    shrinks = options.size is not None and min(height, width) > options.size
    if not shrinks and not changes and kind in KEPT_FORMATS:
        return data, changes
    if shrinks:
        changes.append("shrunk")
        long = round(max(sides) * options.size / min(sides))
        pixels = resized(pixels, *((options.size, long) if width < height else (long, options.size)))
    pixels = on_white(pixels)
    if not shrinks and kind in LOSSLESS_FORMATS:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        return buffer.getvalue(), changes
    try:
        return simplejpeg.encode_jpeg(pixels, options.quality, "RGB", "420"), changes
    except ValueError as error:  # a side of more than 65,500 pixels
        sides = f"{pixels.shape[1]} x {pixels.shape[0]} pixels"
        raise DataError("image", sides, "sides that a JPEG can have") from error


def _header(data: bytes) -> tuple[str, tuple[int, int], list[str]]:
    """Format, sides as stored, and what is unusual about an image and will be gone when it is encoded again."""
    if data[:3] == b"\xff\xd8\xff" and not has_exif(data):
        with contextlib.suppress(ValueError):  # Pillow reads more kinds of JPEG, but takes its time
            height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
            return "JPEG", (width, height), ["cmyk"] if colors in ("CMYK", "YCCK") else []
    try:
        header = Image.open(io.BytesIO(data), formats=ALL_FORMATS)
    except DAMAGED:
        header = Image.open(io.BytesIO(without_metadata(data)), formats=ALL_FORMATS)
    found = []
    if exif_orientation(data) in range(2, 9):
        found.append("turned")
    if header.mode == "CMYK":
        found.append("cmyk")
    depth = data[24] if header.format == "PNG" else max(getattr(header, "tag_v2", {}).get(TIFF_BITS, (8,)))
    if header.mode.startswith("I") or depth == 16:
        found.append("16_bit")
    if getattr(header, "is_animated", False):
        found.append("animated")
    return header.format, header.size, found


# What a fingerprint is made of, in the words of a message that says in what two jobs differ.
PARTS = {
    "name": "--name",
    "splits": "--splits",
    "image": "--size, --quality, --raw or --fit",
    "require_caption": "--require_caption",
    "split_by_image": "--split_by_image",
    "shards": "the input (files by name, size and time; entries of a table; the fields that are read)",
    "names": "names of classes or of values of attributes",
}


def _sha256(facts) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Job:
    """One set to make. Equal fingerprints give equal bytes; a folder holds the work of one fingerprint only.

    Attributes:
      name: of the set.
      source: its input shards and what their numbers mean.
      splits: split -> share, for input shards that have no split of their own.
      image: what becomes of images.
      require_caption: drop images without a caption.
      split_by_image: the split goes by a hash of the image, so that equal images are never on both sides of it.
      asked: the flags with which the user named entries or classes (--caption_fields, --label_field, --class_names):
        that no example has one, or that a label of --label_field is not a class, is then an error. The names
        themselves are in the identities of the shards.
    """

    name: str
    source: Source
    splits: dict
    image: ImageOptions = dataclasses.field(default_factory=ImageOptions)
    require_caption: bool = False
    split_by_image: bool = False
    asked: tuple[str, ...] = ()

    @property
    def writer_options(self) -> str:
        """Of ArrayRecord. Encoded images do not compress: trying costs 7 % of the whole work, and time when read."""
        return "group_size:1,zstd:3" if self.image.raw else "group_size:1,uncompressed"

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the options and of what identifies the input shards."""
        return _sha256(self._facts)

    @property
    def parts(self) -> dict[str, str]:
        """Digests of what the fingerprint is made of, by which two jobs can be told apart: keys of PARTS."""
        return {name: _sha256(fact)[:16] for name, fact in self._facts.items()}

    @property
    def _facts(self) -> dict:
        facts = {
            "format": [SCHEMA_VERSION, self.writer_options],
            "name": self.name,
            "splits": list(self.splits.items()),
            "image": {name: value for name, value in dataclasses.asdict(self.image).items() if value != "crop"},
            "require_caption": self.require_caption,
            "shards": [[shard.name, shard.identity, shard.split] for shard in self.source.shards],
            "names": [self.source.class_names, self.source.attributes, self.source.text_encoder],
        }
        if self.source.labels_are_names:
            facts["labels"] = "names"
        if self.split_by_image:
            facts["split_by_image"] = True
        if self.ids_per_shard == LARGE_SHARD and len(self.source.shards) * LARGE_SHARD >= NARROW:
            facts["ids_per_shard"] = LARGE_SHARD
        return facts

    @functools.cached_property
    def ids_per_shard(self) -> int:
        """Ids of input shard k start at k times this: a power of ten, as large as the number of shards allows.

        Ids stay below 2**31 where that leaves each shard 10,000 of them, as tars of img2dataset hold, and it does for
        200,000 shards. More than that are numbered with gaps of LARGE_SHARD.
        """
        ids = 1
        while ids * 10 * len(self.source.shards) < NARROW:
            ids *= 10
        return ids if ids >= SMALL_SHARD else LARGE_SHARD

    def first_id(self, number: int) -> int:
        return number * self.ids_per_shard

    def empty_manifest(self) -> Manifest:
        """The manifest without its splits: what every record is checked against."""
        source = self.source
        return Manifest(self.name, {}, tuple(source.class_names), dict(source.attributes), source.text_encoder)

    def label_index(self, label: int | str | None, key: str) -> int:
        """Returns the number of a class; DataError for what is none of the classes.

        A text is the name of a class where one has it; otherwise a number in it counts, unless the source says that
        its texts are names.
        """
        if label is None:
            return -1
        end = len(self._numbers) or MAX_LABEL
        number = number_in(label) if isinstance(label, str) and label not in self._numbers else label
        if isinstance(label, str) and isinstance(number, int) and number != -1 and self.source.labels_are_names:
            number = str(number)  # "3.0" of the name "3"
        if isinstance(number, int) and -1 <= number < end:
            return number
        if number not in self._numbers:
            named = "the name of a class or its number"
            expected = named if self._numbers else f"a number from 0 to {MAX_LABEL - 1}: no names are known"
            raise DataError(
                f"label of {key}",
                label,
                expected,
                "List all names: --class_names=FILE; that is other work, for another --out.",
            )
        label = number
        if label in self._repeated:
            fix = "Give each class a name of its own, or labels that are numbers."
            raise DataError(f"label of {key}", label, "a name that only one class has", fix)
        return self._numbers[label]

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.source.class_names)}

    @functools.cached_property
    def _repeated(self) -> frozenset[str]:
        return frozenset(repeated(self.source.class_names))

    def __post_init__(self):
        if not self.source.shards:
            raise DataError(f"records of {self.name}", 0, "at least one", "Nothing is in what --path names.")
        for number, name in enumerate(self.source.class_names):
            if not as_read(name):
                fix = "Name it; a list of names has one on each line."
                raise DataError(f"name of class {number}", ascii(name), "text that can be read", fix)
            try:
                name.encode()
            except UnicodeEncodeError as error:
                raise DataError("class name", ascii(name), "text in UTF-8", "Rename the folder.") from error

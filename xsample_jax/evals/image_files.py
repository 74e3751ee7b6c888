"""Pictures in files as examples: image, id, label, by index; what data.pipeline reads from records."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from xsample_jax.data.decode import open_picture
from xsample_jax.data.resize import square
from xsample_jax.errors import DataError
from xsample_jax.prepare.listing import IMAGE_SUFFIXES


@dataclasses.dataclass(frozen=True)
class ImageFiles:
    """Random access to decoded pictures, uint8 [size, size, 3]: short side resized, centre square.

    border: pixels that are cut off all around first, at the size of the file.
    """

    paths: Sequence[Path]
    size: int
    border: int = 0

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (self.size, self.size, 3)

    def drawn_or_next(self, index: int, draw: None, image: np.ndarray) -> tuple[dict[str, np.ndarray], bool]:
        """As that of `data.pipeline.Examples`: the picture goes to `image`. None is ever left out."""
        path = self.paths[index]
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DataError("picture", str(path), f"a file that can be read ({error.strerror})") from error
        # A border is counted in pixels of the file: no shrinking while it is decoded.
        pixels = open_picture(data, self.size if not self.border else 2**16, str(path), reuse=True)
        if self.border:
            if min(pixels.shape[:2]) <= 2 * self.border:
                sides = " x ".join(map(str, pixels.shape[1::-1]))
                raise DataError(f"picture {path}", sides, f"more than its border of {self.border} pixels all around")
            pixels = pixels[self.border : -self.border, self.border : -self.border]
        square(pixels, self.size, 3, image)
        return {"id": np.int32(index), "label": np.int32(-1)}, True


def pictures_in(folders: Iterable[Path]) -> tuple[list[Path], np.ndarray]:
    """The pictures directly inside each folder, sorted by name, and the number of their folder, int [n]."""
    paths, numbers = [], []
    for number, folder in enumerate(folders):
        found = sorted(path for path in folder.iterdir() if path.suffix[1:].lower() in IMAGE_SUFFIXES)
        paths += found
        numbers += [number] * len(found)
    return paths, np.array(numbers, int)


def subfolders(folder: Path) -> list[Path]:
    """The folders directly inside a folder, sorted by name, hidden ones left out."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))

"""Class names that a program tells apart and a reader does not, or the reverse."""

import collections
import unicodedata
from collections.abc import Iterable, Sequence


def as_read(name: str) -> str:
    """The name as a reader takes it: compatible characters, case, white space, and what has no width made alike."""
    visible = "".join(char for char in unicodedata.normalize("NFKC", name) if unicodedata.category(char) != "Cf")
    return " ".join(visible.replace("_", " ").split()).casefold()


def repeated(names: Sequence[str]) -> list[str]:
    """Names that several classes have, as they are written."""
    return sorted(name for name, count in collections.Counter(names).items() if count > 1)


def look_alikes(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Groups of different names that are read alike."""
    groups = collections.defaultdict(set)
    for name in names:
        groups[as_read(name)].add(name)
    return sorted(tuple(sorted(group)) for group in groups.values() if len(group) > 1)

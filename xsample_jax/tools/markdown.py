"""Generated parts of hand-written Markdown pages, between marker lines; rows of their tables."""

from collections.abc import Sequence
from pathlib import Path

from xsample_jax.errors import DataError


def insert(path: str | Path, name: str, markdown: str) -> None:
    """Puts the text between the lines `<!-- name -->` and `<!-- /name -->` of a file, in place of what is there.

    A file that does not exist is made. Raises DataError for one without the markers.
    """
    path, first, last = Path(path), f"<!-- {name} -->", f"<!-- /{name} -->"
    text = path.read_text(encoding="utf-8") if path.exists() else f"# {name.capitalize()}\n\n{first}\n{last}\n"
    before, start, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not (start and end):
        raise DataError(
            str(path), "no markers", f"the lines {first} and {last}", "Add them where the text should stand."
        )
    path.write_text(f"{before}{first}\n\n{markdown}\n\n{last}{after}", encoding="utf-8")


def row(cells: Sequence[str]) -> str:
    """One line of a table."""
    return f"| {' | '.join(cells)} |"


def rule(columns: int) -> str:
    """The line below the head of a table: a column of words, then `columns` of numbers."""
    return "|---|" + "---:|" * columns

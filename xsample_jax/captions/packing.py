"""Texts of all lengths side by side in rows of equal width, so that little is computed for padding.

A caption has 10 to 30 tokens, the longest 20 times that. Sorting into batches of like length needs a compiled program
per length; packing several texts into a row needs one per width, and wastes less (Krell et al., arXiv 2107.02027).
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np

WIDTHS = (128, 256, 512)


@dataclasses.dataclass(frozen=True)
class PackedBatch:
    """Several texts in rows.

    Attributes:
      tokens: int32 [rows, width].
      segments: int32 [rows, width]: which text of the row a token belongs to, from 1; 0 = padding.
      places: (row, segment - 1) of each text [texts, 2].
      texts: index of each text [texts].
    """

    tokens: np.ndarray
    segments: np.ndarray
    places: np.ndarray
    texts: np.ndarray


def segments_per_row(width: int) -> int:
    """Most texts that a row takes: as many as it holds of 4 tokens, start and end included."""
    return width // 4


def pack(token_ids: Sequence[Sequence[int]], budget: int, multiple: int = 1, padding: int = 0) -> Iterator[PackedBatch]:
    """Packs texts into batches of at most `budget` tokens. Equal input gives equal batches.

    A text goes to the narrowest width that holds two of it (the widest that there is, for long ones), and there into
    the fullest row that still has room, longest texts first.

    Args:
      token_ids: of each text, at most 512.
      budget: tokens in a batch, padding included; one row per device is the least whatever it says.
      multiple: rows of a batch divide by it (the number of devices).
      padding: the id in unused places.
    """
    lengths = np.array([len(ids) for ids in token_ids], np.int64)
    narrowest = np.searchsorted(WIDTHS, np.minimum(2 * lengths, WIDTHS[-1]))
    for which, width in enumerate(WIDTHS):
        chosen = np.flatnonzero(narrowest == which)
        if not chosen.size:
            continue
        rows = _fill_rows(chosen[np.argsort(-lengths[chosen], kind="stable")], lengths, width)
        size = batch_rows(len(rows), max(budget // width, 1), multiple)
        for start in range(0, len(rows), size):
            yield _batch(rows[start : start + size], token_ids, size, width, padding)


def batch_rows(rows: int, most: int, multiple: int) -> int:
    """Rows per batch: as few batches as `most` allows, of equal size, from a ladder of 16 sizes (each is compiled)."""
    step = math.ceil(max(most // 16, 1) / multiple) * multiple
    each = math.ceil(rows / math.ceil(rows / most))
    return math.ceil(each / step) * step


def _fill_rows(texts: np.ndarray, lengths: np.ndarray, width: int) -> list[list[int]]:
    """Best fit, longest first: rows as lists of texts."""
    rows: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(width + 1)]  # free tokens -> rows
    most = segments_per_row(width)
    for text in texts.tolist():
        need = int(lengths[text])
        room = next((free for free in range(need, width) if with_room[free]), None)
        if room is None:
            rows.append([])
            row, room = len(rows) - 1, width
        else:
            row = with_room[room].pop()
        rows[row].append(text)
        if len(rows[row]) < most:
            with_room[room - need].append(row)
    return rows


def _batch(rows, token_ids, size: int, width: int, padding: int) -> PackedBatch:
    tokens = np.full((size, width), padding, np.int32)
    segments = np.zeros((size, width), np.int32)
    places, texts = [], []
    for row, members in enumerate(rows):
        start = 0
        for segment, text in enumerate(members):
            end = start + len(token_ids[text])
            tokens[row, start:end] = token_ids[text]
            segments[row, start:end] = segment + 1
            places.append((row, segment))
            texts.append(text)
            start = end
    return PackedBatch(tokens, segments, np.array(places, np.int64), np.array(texts, np.int64))

"""Pictures of single images in the report: nearest neighbours, and the worst errors with what they were taken for."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from xsample_jax.evals.snapshot import OTHER, SAME_GROUP, SAME_LABEL
from xsample_jax.tools.figure_style import colour
from xsample_jax.tools.page import image_uri
from xsample_jax.tools.series import Series

_RELATION = {SAME_LABEL: "same", SAME_GROUP: "kin", OTHER: "other"}
_ERRORS_WITH_ONE, _ERRORS_WITH_MANY = 12, 6  # of each series


def neighbour_gallery(series: Sequence[Series], folder: Path) -> list[dict]:
    """Queries with the neighbours that each series finds; series with the same query stand together."""
    queries: dict[tuple, dict] = {}
    for place, one in enumerate(series):
        shot = one.snapshot
        if shot is None or "query" not in shot:
            continue
        _sheet(shot).save(folder / f"neighbours_{place}.png", optimize=True)
        for query, found, cosine, relation in zip(
            shot["query"], shot["neighbour"], shot["cosine"], shot["relation"], strict=True
        ):
            key = (int(shot["gallery_rows"][query]), str(shot["gallery_captions"][query]))
            entry = queries.setdefault(key, {"picture": _tile(shot["gallery_images"][query], key[1]), "series": []})
            hits = [
                _tile(shot["gallery_images"][row], str(shot["gallery_captions"][row]), f" ({similarity:.2f})")
                | {"relation": _RELATION[int(kind)]}
                for row, similarity, kind in zip(found, cosine, relation, strict=True)
            ]
            entry["series"].append({"name": one.name, "colour": colour(place), "hits": hits})
    return list(queries.values())


def error_galleries(series: Sequence[Series]) -> list[dict]:
    """The worst errors of each series whose snapshot has some."""
    able = [(place, one) for place, one in enumerate(series) if one.snapshot and "errors/images" in one.snapshot]
    count = _ERRORS_WITH_ONE if len(able) == 1 else _ERRORS_WITH_MANY
    galleries = []
    for place, one in able:
        shot = one.snapshot
        errors = []
        for row, (images, captions) in enumerate(zip(shot["errors/images"][:count], shot["errors/captions"])):
            pictures = [_tile(image, str(caption)) for image, caption in zip(images, captions, strict=True)]
            errors.append(
                {
                    "picture": pictures[0],
                    "evidence": pictures[1:],
                    "truth": str(shot["errors/truth"][row]),
                    "predicted": str(shot["errors/predicted"][row]),
                    "share": f"{shot['errors/share'][row]:.0%}",
                    "truth_share": f"{shot['errors/truth_share'][row]:.0%}",
                }
            )
        target = str(shot["errors/target"])
        name = "class" if target == "label" else target
        galleries.append({"name": one.name, "colour": colour(place), "target": name, "errors": errors})
    return galleries


def _tile(image: np.ndarray, caption: str, more: str = "") -> dict:
    return {"image": image_uri(image), "caption": caption, "title": caption + more}


def _sheet(shot: Mapping[str, np.ndarray], gap: int = 4) -> Image.Image:
    """One picture of all queries (left, apart) and their neighbours."""
    pictures = shot["gallery_images"]
    high, wide = pictures.shape[1] + gap, pictures.shape[2] + gap
    rows, columns = shot["neighbour"].shape
    sheet = np.full((rows * high + gap, (columns + 1) * wide + 4 * gap, 3), 255, np.uint8)
    for line, (query, found) in enumerate(zip(shot["query"], shot["neighbour"], strict=True)):
        for place, row in enumerate([query, *found]):
            x = gap + place * wide + (3 * gap if place else 0)
            sheet[gap + line * high :][: high - gap, x : x + wide - gap] = pictures[row]
    return Image.fromarray(sheet)

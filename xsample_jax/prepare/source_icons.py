"""The icons set: openly licensed icons of some 190 sets, drawn from one pinned npm package (extra `emoji`)."""

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from xsample_jax.prepare.example import Example, InputShard, Problem, Source, chunks
from xsample_jax.prepare.npm import check_npm, fetch_npm
from xsample_jax.tools.emoji_drawings import compose_svg, encode_webp, rasterise

PACKAGE, VERSION = "@iconify/json", "2.2.535"
SIZE = 64  # pixels
ICONS_PER_SHARD = 5_000

LICENCES = (
    "Apache-2.0", "BSD-3-Clause", "CC-BY-3.0", "CC-BY-4.0", "CC0-1.0", "ISC", "MIT", "OFL-1.1", "Unlicense",
)  # fmt: skip
# What their names say is not what they show: brands, countries.
LEFT_OUT = {"Logos", "Flags / Maps", "Programming"}

# Parts of a name that say how an icon is drawn, not what it shows.
STYLE_WORD = re.compile(
    "alt|baseline|bold|broken|bulk|colou?r(ed)?|curved|dark|duotone|fill(ed)?|flat|light|line|linear|lined|micro|mini|"
    r"outlined?|outlines|regular|round|rounded|sharp|solid|stroke|thin|tone|twotone|two|\d+"
)


def icons_source(path: str) -> Source:
    """Every icon of the permissively licensed sets, 64 x 64 pixels with a transparent ground.

    Its caption is its name without the words about its style, with the categories that its set gives it; icons of equal
    name go into one split. Attributes: the set (`style`) and its `licence`; authors and links are in the package.

    Args:
      path: folder of npm packages; the pinned one is installed there when it is missing.
    """
    if not (Path(path) / "node_modules" / PACKAGE / "package.json").exists():
        fetch_npm(path, [f"{PACKAGE}@{VERSION}"])
    package = check_npm(path, PACKAGE, VERSION)
    collections = json.loads((package / "collections.json").read_text())
    chosen = [name for name in sorted(collections) if _is_open(collections[name])]
    shards = []
    for style, name in enumerate(chosen):
        file = package / "json" / f"{name}.json"
        icons = json.loads(file.read_text())["icons"]
        licence = LICENCES.index(collections[name]["license"]["spdx"])
        for number, some in enumerate(chunks(sorted(icons), ICONS_PER_SHARD)):
            read = partial(draw_icons, str(file), tuple(some), {"style": style, "licence": licence})
            shards.append(InputShard(f"{name}-{number}", read, f"{PACKAGE}@{VERSION} {len(some)}"))
    return Source(tuple(shards), attributes={"style": chosen, "licence": list(LICENCES)})


def draw_icons(file: str, names: tuple[str, ...], attributes: dict) -> Iterator[Example | Problem]:
    """Yields the icons of a set that have these names."""
    icons = json.loads(Path(file).read_text())
    categories: dict[str, list[str]] = {}
    for category, members in icons.get("categories", {}).items():
        for member in members:
            categories.setdefault(member, []).append(category)
    for name in names:
        key = f"{icons['prefix']}:{name}"
        try:
            picture = rasterise(compose_svg(icons, name), SIZE)
        except ValueError as error:
            yield Problem(key, "broken_image", str(error))
            continue
        if picture.getextrema()[3][1] == 0:
            yield Problem(key, "no_image", "nothing is drawn")
            continue
        shown = spoken_name(name)
        caption = ". ".join([shown, ", ".join(categories.get(name, []))]).removesuffix(". ")
        yield Example(key, encode_webp(picture), (caption,), attributes=attributes, group=shown)


def spoken_name(name: str) -> str:
    """ "cart-plus-outline-24" -> "cart plus"; a name of nothing but style words stays."""
    words = re.split(r"[-_]+", name)
    while len(words) > 1 and STYLE_WORD.fullmatch(words[-1]):
        words.pop()
    return " ".join(words)


def _is_open(info: dict) -> bool:
    return info["license"].get("spdx") in LICENCES and info.get("category") not in LEFT_OUT

"""The drawings of the emoji set: from the icons of an npm package to one lossless picture of each concept."""

import dataclasses
import json
import re
import unicodedata
from pathlib import Path

from xsample_jax.prepare.iconify import compose_svg, encode_webp, rasterise
from xsample_jax.tools.emoji_concepts import Concept, bare


@dataclasses.dataclass(frozen=True)
class Style:
    """A drawing style: its npm package, the package whose code points name its icons, and where it comes from."""

    package: str
    version: str
    held_out: bool = False
    codepoints: str | None = None
    home: str = ""


STYLES = {
    "noto": Style("noto", "1.2.9", home="https://github.com/googlefonts/noto-emoji"),
    "twemoji": Style("twemoji", "1.2.5", home="https://github.com/jdecked/twemoji"),
    "fluent": Style(
        "fluent-emoji", "1.2.7", codepoints="fluent-emoji-flat", home="https://github.com/microsoft/fluentui-emoji"
    ),
    "fluent-flat": Style("fluent-emoji-flat", "1.2.6", home="https://github.com/microsoft/fluentui-emoji"),
    "noto-v1": Style("noto-v1", "1.2.5", home="https://github.com/googlefonts/noto-emoji"),
    "fxemoji": Style("fxemoji", "1.2.2", home="https://github.com/mozilla/fxemoji"),
    "emojione": Style("emojione", "1.2.3", held_out=True, home="https://github.com/EmojiTwo/emojitwo"),
    "openmoji": Style("openmoji", "1.2.29", held_out=True, home="https://github.com/hfg-gmuend/openmoji"),
}


def draw_style(style: Style, concepts: list[Concept], npm: Path, size: int) -> dict[int, bytes]:
    """Returns concept index -> WebP for every concept that the style draws."""
    folder = npm / "node_modules" / "@iconify-json"
    icons = json.loads((folder / style.package / "icons.json").read_text())
    codepoints = json.loads((folder / (style.codepoints or style.package) / "chars.json").read_text())
    pictures = {}
    for index, name in match_icons(concepts, icons, codepoints).items():
        picture = rasterise(compose_svg(icons, name), size)
        if picture.getextrema()[3][1] > 0:  # not blank
            pictures[index] = encode_webp(picture)
    return pictures


def match_icons(concepts: list[Concept], icons: dict, codepoints: dict[str, str]) -> dict[int, str]:
    """Finds the drawing of each concept in one style.

    An icon matches by code points where the package lists them, else by name: the concept's label, or the Unicode
    name of its character. An icon serves one concept only, the first that claims it by the better of these.

    Args:
      concepts: all concepts.
      icons: an iconify icons.json ("icons" and "aliases").
      codepoints: an iconify chars.json, code points -> icon name; may be empty.

    Returns:
      concept index -> icon name.
    """
    names = [*icons["icons"], *icons.get("aliases", {})]
    by_codepoints = {bare(key): name for key, name in codepoints.items() if name in set(names)}
    by_name = {squeeze(name): name for name in reversed(names)}  # real icons win over aliases
    found: dict[int, str] = {}
    taken: set[str] = set()

    def claim(index: int, name: str | None) -> None:
        drawing = icons.get("aliases", {}).get(name, {"parent": name})
        key = json.dumps(drawing, sort_keys=True)  # a mirrored alias is another drawing, a plain alias is not
        if name is not None and index not in found and key not in taken:
            found[index] = name
            taken.add(key)

    for index, concept in enumerate(concepts):
        claim(index, by_codepoints.get(concept.codepoints))
    for index, concept in enumerate(concepts):
        claim(index, by_name.get(squeeze(concept.label)))
    for index, concept in enumerate(concepts):
        if "-" not in concept.codepoints:
            claim(index, by_name.get(squeeze(unicodedata.name(chr(int(concept.codepoints, 16)), "?"))))
    return found


def squeeze(name: str) -> str:
    """Reduces a name to its letters and digits, so that "alarm clock", "alarm-clock" and "alarmclock" are equal."""
    return re.sub("[^a-z0-9]", "", name.lower())


def drop_shared(pictures: dict[str, dict[int, bytes]]) -> dict[str, dict[int, bytes]]:
    """Leaves a picture to the first concept that has it, byte for byte.

    Some styles draw "person golfing" and "man golfing" alike: two labels for one picture, which could even lie in
    training and test split.
    """
    owner: dict[bytes, int] = {}
    for drawn in pictures.values():
        for index in sorted(drawn):
            owner[drawn[index]] = min(index, owner.get(drawn[index], index))
    return {style: {i: data for i, data in drawn.items() if owner[data] == i} for style, drawn in pictures.items()}

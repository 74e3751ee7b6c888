"""Builds the embedded emoji set: 8 openly licensed drawing styles of the same concepts, with captions and embeddings.

    python -m scripts.build_emoji --out=xsample_jax/data/emoji

The SVGs come from pinned npm packages and are rasterized, encoded and written by pinned Python packages, so that a
second build gives the same bytes. Caption embeddings are taken over from the set in --out when its captions are
the same (no torch needed); --text_encoder computes them again.
"""

import argparse
import dataclasses
import hashlib
import importlib.metadata
import json
import re
import sys
import tempfile
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from xsample_jax.captions.encoders import encode_texts, round_rows
from xsample_jax.data.captions import TOKENIZER, train_tokenizer
from xsample_jax.data.records import MANIFEST, Manifest, open_records, read_manifest
from xsample_jax.data.writer import write_records
from xsample_jax.errors import DataError
from xsample_jax.io.files import atomic_write
from xsample_jax.prepare.icons import compose_svg, encode_webp, fetch_npm, rasterize
from xsample_jax.tools.cli import out_folder, run_cli

# The concepts of the emoji set: which emoji it holds, in which split each is, and its captions.


@dataclasses.dataclass(frozen=True)
class Concept:
    """One emoji, whatever its drawing. `codepoints` is lower-case hex without the variation selector FE0F."""

    codepoints: str
    label: str
    tags: tuple[str, ...]
    group: str
    subgroup: str

    @property
    def captions(self) -> list[str]:
        """[label and tags, the same with the words of subgroup and group between them]."""
        tags = ", ".join(self.tags)
        words = f"{self.subgroup.replace('-', ' ')}, {self.group.replace('-', ' ')}"
        return [", ".join((self.label, *self.tags)), f"{self.label}. {words}." + (f" {tags}" if tags else "")]

    @property
    def split(self) -> str:
        """train, val or test (80/10/10) from a hash of the code points, so that no other concept has a say in it."""
        bucket = int.from_bytes(hashlib.sha256(self.codepoints.encode()).digest()[:8], "big") % 10
        return "val" if bucket == 8 else "test" if bucket == 9 else "train"


def bare(codepoints: str) -> str:
    """Lower-cases hex code points joined by "-" and drops FE0F, which only asks for the colored drawing."""
    return "-".join(part for part in codepoints.lower().split("-") if part != "fe0f")


def list_concepts(emoji: list[dict], messages: dict) -> list[Concept]:
    """Returns the concepts in the order of the Unicode chart, without flags, components and skin tones.

    Args:
      emoji: emojibase-data en/data.json.
      messages: emojibase-data en/messages.json, which names groups and subgroups.
    """
    groups = {entry["order"]: entry["key"] for entry in messages["groups"]}
    subgroups = {entry["order"]: entry["key"] for entry in messages["subgroups"]}
    kept = [entry for entry in emoji if groups.get(entry.get("group")) not in (None, "component", "flags")]
    kept.sort(key=lambda entry: entry["order"])
    concepts = []
    for entry in kept:
        tags = tuple(tag for tag in entry.get("tags", ()) if tag.lower() != entry["label"].lower())
        group, subgroup = groups[entry["group"]], subgroups[entry["subgroup"]]
        concepts.append(Concept(bare(entry["hexcode"]), entry["label"], tags, group, subgroup))
    return concepts


def group_names(concepts: list[Concept]) -> tuple[list[str], list[str]]:
    """Returns the names of groups and of subgroups, each in order of first appearance."""
    return list(dict.fromkeys(c.group for c in concepts)), list(dict.fromkeys(c.subgroup for c in concepts))


# The drawings of the emoji set: from the icons of an npm package to one lossless image of each concept.


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
    images = {}
    for index, name in match_icons(concepts, icons, codepoints).items():
        image = rasterize(compose_svg(icons, name), size)
        if image.getextrema()[3][1] > 0:  # not blank
            images[index] = encode_webp(image)
    return images


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


def drop_shared(images: dict[str, dict[int, bytes]]) -> dict[str, dict[int, bytes]]:
    """Leaves an image to the first concept that has it, byte for byte.

    Some styles draw "person golfing" and "man golfing" alike: two labels for one image, which could even lie in
    training and test split.
    """
    owner: dict[bytes, int] = {}
    for drawn in images.values():
        for index in sorted(drawn):
            owner[drawn[index]] = min(index, owner.get(drawn[index], index))
    return {style: {i: data for i, data in drawn.items() if owner[data] == i} for style, drawn in images.items()}


SIZE = 64  # pixels
VOCABULARY = 2048
TEMPLATE = "{caption}"

# Concept split -> record splits of its images in the styles that are trained on, and in those that are held out.
SPLITS = {"train": ("train", "train_styles"), "val": ("val", "val_styles"), "test": ("test", "test_styles")}

# A concept has 1 to 6 images in a split. Records are ordered by that number, so groups of 24 hold whole concepts (but
# for those with 5) and the embedding, repeated in each record of a concept, is stored about once.
RECORDS_PER_GROUP = 24
WRITER_OPTIONS = f"group_size:{RECORDS_PER_GROUP},brotli:11"

# Embeddings are rounded to multiples of this: half the size, and cosines move by 0.0008 only (standard deviation).
EMBEDDING_STEP = 1 / 512

PYTHON_PACKAGES = {"resvg-py": "0.5.0", "pillow": "12.3.0", "array-record": "0.8.6", "tokenizers": "0.23.3"}
EMOJIBASE = ("emojibase-data", "17.0.0")


def fetch_packages(folder: Path) -> None:
    """Installs the pinned npm packages into `folder`/node_modules."""
    pins = [f"@iconify-json/{style.package}@{style.version}" for style in STYLES.values()] + ["@".join(EMOJIBASE)]
    fetch_npm(folder, pins)


def check_versions(npm: Path) -> None:
    """Raises DataError when a package that the bytes depend on has another version than the pinned one."""
    for package, pinned in PYTHON_PACKAGES.items():
        found = importlib.metadata.version(package)
        if found != pinned:
            fix = f"pip install {package}=={pinned}, or pass --any_versions and expect another fingerprint."
            raise DataError(package, found, f"version {pinned}", fix)
    wanted = {f"@iconify-json/{style.package}": style.version for style in STYLES.values()} | dict([EMOJIBASE])
    for package, pinned in wanted.items():
        found = json.loads((npm / "node_modules" / package / "package.json").read_text())["version"]
        if found != pinned:
            raise DataError(package, found, f"version {pinned}", "Remove the folder given with --npm and try again.")


def list_records(
    concepts: list[Concept], images: dict[str, dict[int, bytes]], embeddings: np.ndarray
) -> dict[str, list[dict]]:
    """Returns split -> records, ordered so that images of a concept are neighbors.

    Args:
      concepts: C concepts; a record's label is its index here.
      images: style -> concept index -> image bytes.
      embeddings: float16 [C, captions, E].
    """
    styles = list(STYLES)
    groups, subgroups = group_names(concepts)
    splits = {name: [] for name in ("train", "val", "test", "val_styles", "test_styles", "train_styles")}
    for held_out in (False, True):
        chosen = [style for style in styles if STYLES[style].held_out == held_out]
        drawn = {index: [s for s in chosen if index in images[s]] for index in range(len(concepts))}
        for index in sorted(drawn, key=lambda index: (-len(drawn[index]), index)):
            concept = concepts[index]
            for style in drawn[index]:
                record = {
                    "id": index * len(styles) + styles.index(style),
                    "image": images[style][index],
                    "label": index,
                    "captions": concept.captions,
                    "caption_embeddings": embeddings[index],
                    "attributes": {
                        "style": styles.index(style),
                        "group": groups.index(concept.group),
                        "subgroup": subgroups.index(concept.subgroup),
                    },
                }
                splits[SPLITS[concept.split][held_out]].append(record)
    return splits


def embed_concepts(concepts: list[Concept], model: str) -> tuple[np.ndarray, dict]:
    """Returns (float16 [C, captions, E] rounded embeddings, description of the encoder)."""
    captions = [caption for concept in concepts for caption in concept.captions]
    rows, info = encode_texts(captions, model, template=TEMPLATE)
    rounded = round_rows(rows, EMBEDDING_STEP)
    return rounded.reshape(len(concepts), -1, rows.shape[1]), {**info, "rounded_to": EMBEDDING_STEP}


def reuse_embeddings(concepts: list[Concept], folder: Path) -> tuple[np.ndarray, dict]:
    """Returns the embeddings of an earlier build, as `embed_concepts` does, where its captions are the same.

    Raises:
      DataError: there is no earlier build, or a concept is not in it with the same captions.
    """
    fix = "Pass --text_encoder=sentence-transformers/all-mpnet-base-v2."
    if not (folder / MANIFEST).exists():
        raise DataError("--text_encoder", None, f"a model, as there is no set in {folder} to take embeddings from", fix)
    manifest = read_manifest(folder)
    known = {}
    for split in manifest.splits:
        for record in open_records(folder, split):
            known[tuple(record["captions"])] = record["caption_embeddings"]
    missing = [concept.label for concept in concepts if tuple(concept.captions) not in known]
    if missing:
        raise DataError("--text_encoder", None, f"a model: captions of {missing[:3]} changed since the last build", fix)
    return np.stack([known[tuple(concept.captions)] for concept in concepts]), manifest.text_encoder


def attribution(npm: Path, images: dict[str, dict[int, bytes]]) -> str:
    """Returns the text of ATTRIBUTION.md: per style its package, version, author, license and home."""
    rows = []
    for name, style in STYLES.items():
        info = json.loads((npm / "node_modules/@iconify-json" / style.package / "info.json").read_text())
        author, license = info["author"], info["license"]
        rows.append(
            f"| {name} | {len(images[name])} | `@iconify-json/{style.package}` {style.version} "
            f"| [{author['name']}]({author.get('url', style.home)}) "
            f"| [{license['spdx']}]({license['url']}) | <{style.home}> |"
        )
    return "\n".join(
        [
            "# Where the images come from",
            "",
            f"The drawings below were rasterized at {SIZE} x {SIZE} pixels and stored as WebP without loss; nothing",
            "else was changed. Each image keeps the license of its style: those of openmoji stay under CC-BY-SA-4.0.",
            "The attribute `style` of a record says which it is. Flags were left out.",
            "",
            "| style | images | npm package | author | license | home |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            f"Names, keywords and groups: `{EMOJIBASE[0]}` {EMOJIBASE[1]} by Miles Johnson, MIT, <https://emojibase.dev>,",
            "after the Unicode CLDR ([Unicode License](https://www.unicode.org/license.txt)).",
            "",
            "Caption embeddings: sentence-transformers/all-mpnet-base-v2, Apache-2.0,",
            "<https://huggingface.co/sentence-transformers/all-mpnet-base-v2>.",
            "",
        ]
    )


def build(out: Path, npm: Path, text_encoder: str | None = None) -> Manifest:
    """Builds the set in `out` from installed npm packages; returns its manifest."""
    emojibase = npm / "node_modules" / EMOJIBASE[0] / "en"
    emoji, messages = (json.loads((emojibase / name).read_text()) for name in ("data.json", "messages.json"))
    concepts = list_concepts(emoji, messages)
    if text_encoder:
        embeddings, encoder = embed_concepts(concepts, text_encoder)
    else:
        embeddings, encoder = reuse_embeddings(concepts, out)
    images = drop_shared({name: draw_style(style, concepts, npm, SIZE) for name, style in STYLES.items()})
    groups, subgroups = group_names(concepts)
    manifest = write_records(
        out,
        "emoji",
        list_records(concepts, images, embeddings),
        class_names=[concept.label for concept in concepts],
        attributes={"style": list(STYLES), "group": groups, "subgroup": subgroups},
        text_encoder=encoder,
        options=WRITER_OPTIONS,
        overwrite=True,
    )
    atomic_write(out / "ATTRIBUTION.md", lambda partial: partial.write_text(attribution(npm, images)))
    # The vocabulary is learnt from training concepts only, as everything else is.
    captions = [caption for concept in concepts if concept.split == "train" for caption in concept.captions]
    train_tokenizer(captions, VOCABULARY, out / TOKENIZER)
    return manifest


def describe(manifest: Manifest, folder: Path) -> Iterator[str]:
    """Yields lines with the size of the set and of each split."""
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    yield f"{manifest.name}: {len(manifest.class_names)} concepts, {size / 1e6:.2f} MB"
    yield f"  fingerprint {manifest.fingerprint}"
    for split, entry in manifest.splits.items():
        yield f"  {split}: {entry['count']} images, {sum(s['bytes'] for s in entry['shards']) / 1e6:.2f} MB"


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=out_folder, required=True, help="folder of the set")
    parser.add_argument("--npm", type=Path, help="folder with the npm packages installed (default: install them)")
    parser.add_argument("--text_encoder", help="model name or folder; default: take over the embeddings in --out")
    parser.add_argument("--any_versions", action="store_true", help="go on when a package is not the pinned version")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        npm = options.npm or Path(temporary)
        if not (npm / "node_modules").exists():
            fetch_packages(npm)
        if not options.any_versions:
            check_versions(npm)
        manifest = build(options.out, npm, options.text_encoder)
    print("\n".join(describe(manifest, options.out)))


if __name__ == "__main__":
    sys.exit(run_cli(main))

"""Builds the embedded emoji set: 8 openly licensed drawing styles of the same concepts, with captions and embeddings.

    python -m xsample_jax.tools.build_emoji --out=xsample_jax/data/emoji

The SVGs come from pinned npm packages and are rasterised, encoded and written by pinned Python packages, so that a
second build gives the very same bytes. Caption embeddings are taken over from the set in --out when its captions are
the same (no torch needed); --text_encoder computes them anew.
"""

import argparse
import importlib.metadata
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from xsample_jax.captions.encoders import encode_texts, round_rows
from xsample_jax.captions.tokenizer import TOKENIZER, train_tokenizer
from xsample_jax.data.manifest import MANIFEST, Manifest, read_manifest
from xsample_jax.data.record_reader import open_records
from xsample_jax.data.record_writer import write_records
from xsample_jax.errors import DataError
from xsample_jax.prepare.npm import fetch_npm
from xsample_jax.tools.emoji_concepts import Concept, group_names, list_concepts
from xsample_jax.tools.emoji_drawings import STYLES, draw_style, drop_shared

SIZE = 64  # pixels
VOCABULARY = 2048
TEMPLATE = "{caption}"

# Concept split -> record splits of its pictures in the styles that are trained on, and in those that are held out.
SPLITS = {"train": ("train", "train_styles"), "val": ("val", "val_styles"), "test": ("test", "test_styles")}

# A concept has 1 to 6 pictures in a split. Records are ordered by that number, so groups of 24 hold whole concepts (but
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
    concepts: list[Concept], pictures: dict[str, dict[int, bytes]], embeddings: np.ndarray
) -> dict[str, list[dict]]:
    """Returns split -> records, ordered so that pictures of a concept are neighbours.

    Args:
      concepts: C concepts; a record's label is its index here.
      pictures: style -> concept index -> image bytes.
      embeddings: float16 [C, captions, E].
    """
    styles = list(STYLES)
    groups, subgroups = group_names(concepts)
    splits = {name: [] for name in ("train", "val", "test", "val_styles", "test_styles", "train_styles")}
    for held_out in (False, True):
        chosen = [style for style in styles if STYLES[style].held_out == held_out]
        drawn = {index: [s for s in chosen if index in pictures[s]] for index in range(len(concepts))}
        for index in sorted(drawn, key=lambda index: (-len(drawn[index]), index)):
            concept = concepts[index]
            for style in drawn[index]:
                record = {
                    "id": index * len(styles) + styles.index(style),
                    "image": pictures[style][index],
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


def attribution(npm: Path, pictures: dict[str, dict[int, bytes]]) -> str:
    """Returns the text of ATTRIBUTION.md: per style its package, version, author, licence and home."""
    rows = []
    for name, style in STYLES.items():
        info = json.loads((npm / "node_modules/@iconify-json" / style.package / "info.json").read_text())
        author, licence = info["author"], info["license"]
        rows.append(
            f"| {name} | {len(pictures[name])} | `@iconify-json/{style.package}` {style.version} "
            f"| [{author['name']}]({author.get('url', style.home)}) "
            f"| [{licence['spdx']}]({licence['url']}) | <{style.home}> |"
        )
    return "\n".join(
        [
            "# Where the pictures come from",
            "",
            f"The drawings below were rasterised at {SIZE} x {SIZE} pixels and stored as WebP without loss; nothing",
            "else was changed. Each picture keeps the licence of its style: those of openmoji stay under CC-BY-SA-4.0.",
            "The attribute `style` of a record says which it is. Flags were left out.",
            "",
            "| style | pictures | npm package | author | licence | home |",
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
    pictures = drop_shared({name: draw_style(style, concepts, npm, SIZE) for name, style in STYLES.items()})
    groups, subgroups = group_names(concepts)
    manifest = write_records(
        out,
        "emoji",
        list_records(concepts, pictures, embeddings),
        class_names=[concept.label for concept in concepts],
        attributes={"style": list(STYLES), "group": groups, "subgroup": subgroups},
        text_encoder=encoder,
        options=WRITER_OPTIONS,
        overwrite=True,
    )
    (out / "ATTRIBUTION.md").write_text(attribution(npm, pictures))
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
        yield f"  {split}: {entry['count']} pictures, {sum(s['bytes'] for s in entry['shards']) / 1e6:.2f} MB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the set")
    parser.add_argument("--npm", type=Path, help="folder with the npm packages installed (default: install them)")
    parser.add_argument("--text_encoder", help="model name or folder; default: take over the embeddings in --out")
    parser.add_argument("--any_versions", action="store_true", help="go on when a package is not the pinned version")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        npm = arguments.npm or Path(temporary)
        if not (npm / "node_modules").exists():
            fetch_packages(npm)
        if not arguments.any_versions:
            check_versions(npm)
        manifest = build(arguments.out, npm, arguments.text_encoder)
    print("\n".join(describe(manifest, arguments.out)))


if __name__ == "__main__":
    main()

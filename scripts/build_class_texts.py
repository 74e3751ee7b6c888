"""Embeds the class texts of ImageNet-1k again: xsample_jax/data/imagenet/class_embeddings.npy and about.json.

python -m scripts.build_class_texts [--model=NAME_OR_FOLDER]
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xsample_jax.captions.encoders import describe, encode_unique, fill_template, open_encoder
from xsample_jax.captions.sentence_model import DEFAULT_ENCODER
from xsample_jax.data.class_texts import FILES, FOLDER, TEMPLATE, read_classes
from xsample_jax.data.records import file_checksum
from xsample_jax.io.files import atomic_write, save_array
from xsample_jax.tools.cli import run_cli


def build(folder: Path, encoder) -> None:
    """Writes the embeddings of folder/classes.tsv beside it, and what they are."""
    names = [name for _, name in read_classes(folder)]
    rows = encode_unique(encoder, fill_template(TEMPLATE, names))
    atomic_write(folder / "class_embeddings.npy", lambda partial: save_array(partial, rows.astype(np.float16)))
    checksums = {name: file_checksum(folder / name) for name in FILES}
    about = {"text_encoder": describe(encoder, TEMPLATE), "sha256": checksums}
    atomic_write(folder / "about.json", lambda partial: partial.write_text(json.dumps(about, indent=1) + "\n"))


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.build_class_texts", description=build.__doc__)
    parser.add_argument("--model", default=DEFAULT_ENCODER, help="name on the hub or folder (default: %(default)s)")
    build(FOLDER, open_encoder(parser.parse_args(arguments).model))


if __name__ == "__main__":
    sys.exit(run_cli(main))

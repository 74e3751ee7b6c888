"""Embeddings of the class names of a record set, for the class_text graph."""

import json
from pathlib import Path

import numpy as np

from xsample_jax.captions.encoders import describe, encode_unique, fill_template
from xsample_jax.captions.imagenet_classes import spelled_out
from xsample_jax.class_embeddings import ABOUT, FILE
from xsample_jax.data.manifest import read_manifest
from xsample_jax.data.text_encoder import differing
from xsample_jax.data.whole_file import save_array, write_whole
from xsample_jax.errors import DataError
from xsample_jax.storage.paths import as_path


def embed_classes(
    folder: str | Path, encoder, template: str = "a photo of a {caption}", overwrite: bool = False
) -> np.ndarray:
    """Writes class_embeddings.npy, float16 [classes, E] of the set's class names, for the class_text graph.

    class_embeddings.json beside it says of which model, template and names they are. WordNet ids are embedded as the
    names of their classes.

    Raises:
      DataError: no set, or none with classes; or it has class embeddings of something else and not `overwrite`.
    """
    folder = as_path(folder, "--set")
    names = read_manifest(folder).class_names
    if not names:
        raise DataError(f"class_names of {folder}", [], "names to embed", "Only sets with labels have class texts.")
    about = {"text_encoder": describe(encoder, template), "class_names": list(names)}
    if (folder / FILE).exists() and not overwrite:
        _refuse_another(folder, about["text_encoder"])
    rows = encode_unique(encoder, fill_template(template, spelled_out(names))).astype(np.float16)
    (folder / ABOUT).unlink(missing_ok=True)  # at no moment beside rows of another model
    write_whole(folder / FILE, lambda path: save_array(path, rows))
    text = json.dumps(about, indent=1, ensure_ascii=False) + "\n"
    write_whole(folder / ABOUT, lambda path: path.write_text(text, encoding="utf-8"))
    return rows


def _refuse_another(folder: Path, text_encoder: dict) -> None:
    fix = "Pass --overwrite to replace them."
    if not (folder / ABOUT).exists():
        raise DataError("class embeddings", str(folder / FILE), f"none, or {ABOUT} that says what they are", fix)
    there = differing(json.loads((folder / ABOUT).read_text(encoding="utf-8"))["text_encoder"], text_encoder)
    if there:
        raise DataError(f"text_encoder of {folder / FILE}", there, "none, or that of this very model", fix)

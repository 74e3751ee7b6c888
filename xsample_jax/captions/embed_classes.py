"""Embeddings of the class names of a record set, for the class_text graph."""

import json
from pathlib import Path

import numpy as np

from xsample_jax.captions.encoders import describe, encode_unique, fill_template
from xsample_jax.class_embeddings import ABOUT, FILE
from xsample_jax.data.manifest import read_manifest
from xsample_jax.data.whole_file import save_array, write_whole
from xsample_jax.errors import DataError
from xsample_jax.storage.paths import as_path


def embed_classes(folder: str | Path, encoder, template: str = "a photo of a {caption}") -> np.ndarray:
    """Writes class_embeddings.npy, float16 [classes, E] of the set's class names, for the class_text graph.

    class_embeddings.json beside it says of which model, template and names they are.
    """
    folder = as_path(folder, "--set")
    names = read_manifest(folder).class_names
    if not names:
        raise DataError(f"class_names of {folder}", [], "names to embed", "Only sets with labels have class texts.")
    rows = encode_unique(encoder, fill_template(template, names)).astype(np.float16)
    about = {"text_encoder": describe(encoder, template), "class_names": list(names)}
    write_whole(folder / FILE, lambda path: save_array(path, rows))
    text = json.dumps(about, indent=1, ensure_ascii=False) + "\n"
    write_whole(folder / ABOUT, lambda path: path.write_text(text, encoding="utf-8"))
    return rows

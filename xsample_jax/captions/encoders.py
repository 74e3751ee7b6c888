"""Captions to unit vectors with a frozen sentence encoder. Runs when a set is prepared, never while a model trains."""

from collections.abc import Callable, Sequence

import numpy as np

from xsample_jax.captions.jax_encoder import JaxEncoder
from xsample_jax.captions.model_identity import DEFAULT_ENCODER
from xsample_jax.captions.torch_encoder import TorchEncoder
from xsample_jax.errors import DataError, lookup

BACKENDS = {"jax": JaxEncoder, "torch": TorchEncoder}
PROBE = "\ue000\ue001"  # of no template


def open_encoder(model: str = DEFAULT_ENCODER, backend: str = "jax", **options) -> JaxEncoder | TorchEncoder:
    """Loads a sentence encoder; both kinds have `info` (for the manifest) and `encode(texts, advance)`.

    Args:
      model: name on the model hub, or a folder with a saved model (no network needed).
      backend: "jax" (BERT and MPNet families, no torch), or "torch" (all of sentence-transformers, extra `text`).
      options: of that encoder.

    Raises:
      ImportError: the torch backend is not installed.
      DataError: the model cannot be loaded, or not by this backend.
    """
    return lookup(BACKENDS, backend, "backend")(model, **options)


def encode_texts(
    texts: Sequence[str], model: str = DEFAULT_ENCODER, backend: str = "jax", template: str = "{caption}", **options
) -> tuple[np.ndarray, dict]:
    """Encodes texts, each distinct one once.

    Args:
      texts: n texts.
      model, backend, options: as for `open_encoder`.
      template: a format string with `{caption}` that each text is put into first, as "a photo of {caption}".

    Returns:
      (float32 [n, E] rows of unit length, description for the manifest's `text_encoder`).

    Raises:
      ImportError, DataError: as `open_encoder`; or an embedding is zero or not finite.
    """
    encoder = open_encoder(model, backend, **options)
    return encode_unique(encoder, fill_template(template, texts)), describe(encoder, template)


def describe(encoder, template: str) -> dict:
    """What a manifest says about the embeddings of an encoder: its `text_encoder`."""
    return {**encoder.info, "normalised": True, "template": template}


def fill_template(template: str, texts: Sequence[str]) -> list[str]:
    """Puts each text into a template; DataError when it has no {caption}, or something else in braces."""
    try:
        if PROBE not in template.format(caption=PROBE):
            raise KeyError("caption")
        return [template.format(caption=text) for text in texts]
    except (KeyError, IndexError, ValueError, AttributeError, TypeError):
        fix = "Double a brace that stands for itself."
        raise DataError("template", template, "a text with {caption} in it, and no other field", fix) from None


def encode_unique(encoder, texts: Sequence[str], advance: Callable[[int], None] = lambda texts: None) -> np.ndarray:
    """Unit rows of all texts, float32 [n, E]; a text that occurs again is not computed again."""
    number = {text: index for index, text in enumerate(dict.fromkeys(texts))}
    rows = checked_unit_rows(encoder.encode(list(number), advance), list(number))
    return rows[[number[text] for text in texts]] if texts else rows


def checked_unit_rows(rows: np.ndarray, texts: Sequence[str] = ()) -> np.ndarray:
    """Returns float32 rows [n, E] scaled to unit length; DataError where a row is zero or not finite.

    `texts`: of the rows, for that message.
    """
    rows = rows.astype(np.float32)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(norms[:, 0]) & (norms[:, 0] > 0)))
    if bad.size:
        which = repr(texts[bad[0]][:200]) if texts else f"row {bad[0]}"
        found = f"length {norms[bad[0], 0]}"
        raise DataError(f"embedding of {which}", found, "a finite vector that is not zero")
    return rows / norms


def round_rows(rows: np.ndarray, step: float) -> np.ndarray:
    """Rounds embeddings to multiples of `step`, as float16 [n, E].

    Coordinates of a unit vector in E dimensions are about 1/sqrt(E), so float16 spends most of its bits on noise.
    Rounding makes the rows compress, and equal on machines whose floating-point sums differ in the last digits (unless
    a value falls on the edge of two steps). Cosines move by about step / sqrt(6): 0.0008 for 1/512.
    """
    return (np.round(rows.astype(np.float64) / step) * step).astype(np.float16)

"""Texts of classes for zero-shot classification: frozen embeddings of class names, or their tokens, over prompts."""

from collections.abc import Sequence

import numpy as np

from xsample_jax.captions.encoders import encode_unique, fill_template, open_encoder
from xsample_jax.captions.imagenet_classes import TEMPLATE
from xsample_jax.class_embeddings import load_class_embeddings
from xsample_jax.data.embedding_rows import unit_rows
from xsample_jax.data.sources import source_folder
from xsample_jax.evals.bench import Bench


def frozen_class_embeddings(bench: Bench) -> np.ndarray:
    """Unit rows float32 [classes, E]: of the prompts by the frozen sentence encoder, averaged per class (CLIP, arXiv
    2103.00020, section 3.1.4); without prompts those that come with the set (class_embeddings.py)."""
    source = bench.source(bench.config.eval.split)
    if not bench.options.prompts:
        return unit_rows(load_class_embeddings(source_folder(bench.config.data), source))
    encoder = open_encoder(bench.options.text_encoder or source.manifest.text_encoder["name"])
    return mean_over_prompts(
        source.manifest.class_names, bench.options.prompts, lambda texts: encode_unique(encoder, texts)
    )


def embedded_class_texts(bench: Bench) -> np.ndarray:
    """Unit rows [classes, D] of the class names by the text side of the model."""
    text = bench.text_side
    if text.reads == "caption_embedding":
        return text.embed(frozen_class_embeddings(bench))
    names = bench.source(bench.config.eval.split).manifest.class_names
    return mean_over_prompts(names, bench.options.prompts or (TEMPLATE,), lambda texts: text.embed(text.tokens(texts)))


def mean_over_prompts(names: Sequence[str], prompts: Sequence[str], embed) -> np.ndarray:
    """Unit rows [classes, D]: the mean over prompts of the unit embeddings of every name in every prompt."""
    return unit_rows(sum(unit_rows(embed(fill_template(prompt, names))) for prompt in prompts) / len(prompts))

"""The encoder that comes with the package."""

import numpy as np

import xsample_jax
from xsample_jax.data.sources import open_source


def test_the_demo_tells_drawings_of_one_concept_from_others():
    """The packaged encoder, on held-out concepts: the nearest drawing of another style is often the same concept."""
    encoder = xsample_jax.load_encoder("demo")
    source = open_source(encoder.config.data, "test")
    records = [source[row] for row in range(300)]
    features = encoder.encode([record["image"] for record in records])
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    labels = np.array([record["label"] for record in records])
    cosines = features @ features.T
    np.fill_diagonal(cosines, -1)
    hits = np.mean(labels[np.argmax(cosines, axis=1)] == labels)
    same = labels[:, None] == labels
    chance = np.mean((same.sum(1) - 1) / (len(labels) - 1))
    assert hits > 5 * chance
    assert hits > 0.2

"""Inputs of the goldens (tests/objectives/goldens*.json) as blocks, and values of objectives on them."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from xsample_jax.objectives.blocks import image_block, key_block
from xsample_jax.objectives.objective import Objective, objective_loss
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.objectives.terms import StepValues

CASES = {
    case["name"]: case
    for file in (f"goldens{of}.json" for of in ("", "_literature", "_rows", "_systems", "_decoders"))
    for case in json.loads((pathlib.Path(__file__).parent / file).read_text())["cases"]
}
_COMMON = json.loads((pathlib.Path(__file__).parent / "goldens.json").read_text())["common"]
Z1, Z2, Z3, QUEUE, LABELS = (np.asarray(_COMMON[name]) for name in ("z1", "z2", "z3", "queue", "labels"))
IDS = np.arange(12)


def extra(name, key):
    return np.asarray(CASES[name]["extra"][key])


def interleaved(*views):
    """Views [B, D] as rows image * V + view."""
    return jnp.stack(list(map(jnp.asarray, views)), axis=1).reshape(-1, views[0].shape[1])


def images(*views, first_row=0, per_row=None, **per_image):
    side = {"id": IDS[: len(views[0])], "label": LABELS[: len(views[0])], **per_image}
    z = interleaved(*views)
    rows = {name: value(z) for name, value in (per_row or {}).items()}
    return image_block(z, {name: jnp.asarray(value) for name, value in side.items()}, len(views), first_row, **rows)


def texts(z, **per_image):
    return images(z, first_row=1000, **per_image)


def queue(**side):
    return key_block(jnp.asarray(QUEUE), label=jnp.full(len(QUEUE), -1), **side)


def value(terms, blocks, tau, count=12, feature_terms=(), tau_s=0.1, **options):
    terms = terms if isinstance(terms, tuple) else (terms,)
    objective = Objective(terms, tau, tau_s, feature_terms)
    return _loss(objective, blocks, count, tau, StepValues(**options))


def preset_value(name, blocks, count=12, temperature=None, progress=0.0, key=None, **changes):
    objective = dataclasses.replace(PRESETS[name].objective, **changes)
    tau = temperature or objective.temperature
    return _loss(objective, blocks, count, tau, StepValues(objective.bias or 0.0, progress, key))


def _loss(objective, blocks, count, tau, values):
    """Compiled as a whole, which takes less time than its operations one by one."""
    return jax.jit(lambda: objective_loss(objective, blocks, count, tau, values)[0])()


def two_views(**side):
    return {"image": images(Z1, Z2, **side)}


def image_and_text(text=Z3, image=Z1):
    return {"image": images(image), "text": texts(text)}

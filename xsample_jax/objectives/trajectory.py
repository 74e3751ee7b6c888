"""What the network said of every image some visits ago: the trajectory that SAF holds it to (arXiv 2205.14083).

SAF compares the softmax of an image over fixed columns (classes, prototypes) with that of the same image E epochs ago,

    lambda (5 tau)^2 / tau^2 KL( softmax(past / 5 tau) || softmax(now / 5 tau) ),        the past first,

so that the loss does not fall along directions in which it could rise again: a flatter minimum, without the second
pass of SAM. The cross-entropy of a term whose graph is `past` is that divergence up to the entropy of the past, which
has no gradient.

The memory keeps the last E + 1 rows of every image as a ring, split over the devices as a bank is:

    bank/past [R, E + 1, P]    cosines with the P columns, means over the views, bfloat16; R as in objectives/bank.py
    bank/visits [R]            int32, how often a step has seen the image

A visit is a batch that the image is in; in a run of whole epochs that is an epoch. Visit v (from 0) writes slot v mod
(E + 1) and reads slot (v + 1) mod (E + 1), which visit v - E wrote. An image that has not been there that often is
compared with itself: its divergence and its gradient are 0.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from xsample_jax.models.heads import products
from xsample_jax.objectives.bank import first_places, padded
from xsample_jax.objectives.blocks import Block
from xsample_jax.objectives.objective import Objective
from xsample_jax.registry import name_of
from xsample_jax.sharding import ROWS_OF_ALL

PAST, VISITS = ROWS_OF_ALL + "past", ROWS_OF_ALL + "visits"
SOURCE = "past"  # the graph of the terms that read it


def terms_of_past(objective: Objective) -> list:
    """The terms that compare with the past."""
    return [term for term in objective.terms if name_of(getattr(term.graph, "source", "")) == SOURCE]


def columns_of(objective: Objective) -> str:
    """The block of the columns that rows are kept of: classes or prototypes."""
    return terms_of_past(objective)[0].key_rows[0].block


def init_past(objective: Objective, images: int, classes: int) -> dict[str, jax.Array]:
    """The memory before the first step, for `images` images of a set of `classes`; {} for an objective without it."""
    if not objective.past:
        return {}
    rows = padded(images)
    columns = objective.prototypes if columns_of(objective) == "prototypes" else classes
    ring = jnp.zeros((rows, objective.past + 1, columns), jnp.bfloat16)
    return {PAST: ring, VISITS: jnp.zeros((rows,), jnp.int32)}


def recall_past(
    objective: Objective, blocks: Mapping[str, Block], memory: Mapping[str, jax.Array], index: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """(the past of every row of the block image [B * V, P] float32, the entries of the memory after this visit).

    All views of an image have its mean of E visits ago; one that is too new for that has what it is now, each view its
    own. index: of the records of the batch, int32 [B]. Of an image that is in a batch twice the first row counts, and
    the batch is one visit.
    """
    steps, images = objective.past, len(index)
    z, columns = (jax.lax.stop_gradient(blocks[name]["z"]) for name in ("image", columns_of(objective)))
    now = products(z, columns).reshape(images, -1, len(columns))
    first = jnp.mean(now, axis=1)[first_places(index)]
    visits, slots = memory[VISITS][index], steps + 1
    kept = memory[PAST][index, (visits + 1) % slots].astype(jnp.float32)
    past = jnp.where((visits >= steps)[:, None, None], kept[:, None], now).reshape(len(z), -1)
    ring = memory[PAST].at[index, visits % slots].set(first.astype(memory[PAST].dtype))
    return past, {PAST: ring, VISITS: memory[VISITS].at[index].set(visits + 1)}


def divergence_of_past(objective: Objective, blocks: Mapping[str, Block], base: jax.Array | float) -> jax.Array:
    """mean KL(softmax(past / t) || softmax(now / t)) over the rows, t the temperature of the term: what is logged.

    base: the temperature of the objective, where the term has no number of its own. The divergence is not weighted, and
    measured before the term counts.
    """
    term = terms_of_past(objective)[0]
    temperature = term.temperature if isinstance(term.temperature, float | int) else base
    image, columns = blocks["image"], blocks[columns_of(objective)]["z"]
    now = jax.nn.log_softmax(jax.lax.stop_gradient(products(image["z"], columns)) / temperature)
    past = jax.nn.log_softmax(image["past"] / temperature)
    return jnp.mean(jnp.sum(jnp.exp(past) * (past - now), axis=-1))

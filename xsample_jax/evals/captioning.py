"""What captions cost a model that predicts them, beside their own images and beside others.

A decoder that reads the image finds a caption less likely beside another image. Every image of a batch with a caption
is compared with the next one in that batch that has another caption, so the same tokens are predicted both times.
"""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from xsample_jax.augment.views import eval_view
from xsample_jax.data.captions import PADDING, select_caption
from xsample_jax.data.dataset import eval_batches
from xsample_jax.errors import DataError, UserError
from xsample_jax.evals.context import EvalContext, Evaluator
from xsample_jax.evals.metrics import Collector
from xsample_jax.metrics.progress_bar import progress
from xsample_jax.objectives.side_information import STATES
from xsample_jax.setup import RunSetup
from xsample_jax.sharding import batch_sharding, replicated

OWN, OTHER = "own_image", "other_image"


def caption_losses(parts: RunSetup) -> Callable:
    """jitted losses(state, images uint8 [b, H, W, C], tokens int [b, L], partner int [b]) -> float32 [b, 2].

    The sums over the tokens of every caption of -log p, given its own image and given that of its partner, a row of
    the same batch; b is a multiple of the number of devices.
    """
    split = batch_sharding(parts.mesh)

    def losses(state, images, tokens, partner):
        state = state.averaged()
        network = parts.model.merge(state.params, state.statistics, training=False)
        images, tokens = jax.lax.with_sharding_constraint((images, tokens), split)
        image = network.with_tokens(eval_view(images, parts.config.augment))[2]
        states = network.read_text({"caption_tokens": tokens})[1]
        found = [network.decoder.token_losses(states, tokens, given) for given in (image, image[partner])]
        return jnp.stack([loss.sum(axis=1) for loss in found], axis=1)

    return jax.jit(losses, out_shardings=replicated(parts.mesh))


def partners_in(tokens: np.ndarray, there: np.ndarray) -> np.ndarray:
    """The next row of every row, around the end, that is `there` and has other tokens; -1 where there is none.

    tokens int [b, L]; there bool [b] -> int [b], -1 for rows that are not there.
    """
    rows, found = np.flatnonzero(there), np.full(len(tokens), -1)
    numbers = np.unique(tokens[rows], axis=0, return_inverse=True)[1].reshape(-1) if len(rows) else rows
    for step in range(1, len(rows)):
        following = np.roll(np.arange(len(rows)), -step)
        new = (found[rows] < 0) & (numbers[following] != numbers)
        found[rows[new]] = rows[following[new]]
        if (found[rows] >= 0).all():
            break
    return found


def measured(bench: EvalContext) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(sums of -log p float32 [n, 2] beside the own and another image, tokens int [n], units int [n]) of eval.split.

    n: the images that have a caption and a partner. All processes call it, and have all rows.
    """
    store, config = bench.features_of, bench.config
    parts, split = store.parts, config.eval.split
    examples, losses = store.examples(split), caption_losses(parts)
    size = -(-min(config.eval.batch_size, len(examples)) // parts.mesh.size) * parts.mesh.size
    batches = progress(
        eval_batches(examples, size, config.data.threads),
        f"captions of {split}",
        -(-len(examples) // size),
        enabled=jax.process_index() == 0,
    )
    found = []
    for batch in batches:
        tokens, there = _tokens_of(bench, examples.source, batch)
        partner = partners_in(tokens, there)
        paired = partner >= 0
        sums = losses(store.state, batch["image"], tokens, np.where(paired, partner, 0))
        unit = batch["index"] if bench.target == "label" else batch["label"]
        unit = np.where(unit >= 0, unit, -1 - batch["index"])
        counts = np.sum(tokens[:, 1:] != PADDING, axis=1)
        found.append([np.asarray(jax.device_get(x))[paired] for x in (sums, counts, unit)])
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))


def _tokens_of(bench: EvalContext, source, batch) -> tuple[np.ndarray, np.ndarray]:
    """(tokens int32 [b, L] of the captions of a batch, which of its rows have one bool [b])."""
    which = bench.config.data.caption
    captions = [
        select_caption(source[int(index)], which, needed=False)[0] if there else None
        for index, there in zip(batch["index"], batch["mask"], strict=True)
    ]
    tokens = bench.text_side.tokens([caption or "" for caption in captions])
    return tokens, np.array([caption is not None for caption in captions])


def captioning(bench: EvalContext, out: Collector) -> None:
    sums, counts, units = measured(bench)
    if not len(sums):
        out.note("captioning: not measured, as no two images of a batch have different captions")
        return
    for place, name in enumerate((OWN, OTHER)):
        out.add_per_example(f"captioning/loss/{name}", sums[:, place] / counts, units)
        out.scalar(f"captioning/perplexity/{name}", np.exp(min(sums[:, place].sum() / counts.sum(), 80.0)))
    lead = sums[:, 1] - sums[:, 0]
    out.add_per_example("captioning/own_image_first", (lead > 0) + 0.5 * (lead == 0), units, classes=2, chance=0.5)


def check(bench: EvalContext) -> Iterator[UserError]:
    """Whether the model predicts captions, and the split has some."""
    if not STATES["decoder"](bench.features_of.parts.objective):
        preset = bench.config.objective.preset
        fix = "Train one with objective.preset=coca, or leave this evaluator out."
        yield DataError("captioning", preset, "a run whose preset has a decoder of captions", fix)
        return
    yield from bench.text_side.check(bench.source(bench.config.eval.split))


CAPTIONING = Evaluator(
    captioning,
    "loss and perplexity of a token of the captions beside their own image and beside another, and how often the own "
    "one makes its caption likelier; for a model with a decoder (`coca`)",
    check,
    tuple(f"captioning/{kind}/{of}" for kind in ("loss", "perplexity") for of in (OWN, OTHER))
    + ("captioning/own_image_first",),
)

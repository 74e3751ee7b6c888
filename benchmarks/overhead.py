"""What the framework costs beside the encoder: our train step, and our whole loop, against a bare step.

    python -m benchmarks.overhead [--encoder resnet18] [--size 128] [--images 16] [--repeats 8]

The bare step is what nobody can do without: the encoder and head forward and backward on views that are there already,
and the optimizer. Ours adds augmentation, graph, loss, metrics; the loop adds reading, decoding, transfers, logging.
Both train the same shapes with the same optimizer. Medians are compared: of our steps with bare ones taken in turn, of
the loop with bare ones before and after it.
"""

import argparse
import json
import pathlib
import statistics
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.report import HEADER, Comparison, finish
from xsample_jax.config import default_config, resolve
from xsample_jax.data.dataset import train_batches
from xsample_jax.loop import train
from xsample_jax.setup import build_run
from xsample_jax.sharding import to_global


def config_of(arguments, steps: int):
    config = default_config()
    config.steps, config.batch_size = steps, arguments.images
    config.model.encoder, config.model.head.hidden = arguments.encoder, (2048,)
    config.augment.size = config.data.image_size = arguments.size
    config.eval.suite, config.log.every = "none", 1
    return resolve(config)


def bare_step(parts):
    """jitted (params, statistics, optimizer state, views) -> the same after an update for a loss without a graph."""
    optimizer, _ = parts.optimizer

    def step(params, statistics, opt_state, views, direction):
        def loss(params):
            network = parts.model.merge(params, statistics, training=True)
            return jnp.sum(network.embed(views)[1] * direction)

        updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    return jax.jit(step, donate_argnums=(0, 2))


def seconds_of_loop(config) -> float:
    """Median seconds per step of the whole loop, without those of compiling, checkpoints and evaluation.

    A line of the log is written when the next step is under way, so the first and the last line see only a part of one.
    """
    with tempfile.TemporaryDirectory() as folder:
        train(config, folder)
        lines = [json.loads(line) for line in (pathlib.Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return statistics.median([line["seconds_per_step"] for line in lines if "seconds_per_step" in line][1:-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=8)
    arguments = parser.parse_args()
    config = config_of(arguments, steps=arguments.repeats + 4)
    parts, examples = build_run(config)
    batches = train_batches(examples, config, 0)
    batch = to_global({name: next(batches)[name] for name in parts.abstract_batch}, parts.mesh)
    batches.close()

    state, bare = parts.new_state(), bare_step(parts)
    rng = np.random.default_rng(0)
    rows = config.views * config.batch_size
    views = jnp.asarray(rng.normal(size=(rows, config.augment.size, config.augment.size, 3)), jnp.float32)
    direction = jnp.asarray(rng.normal(size=(rows, config.model.head.dim)), jnp.float32)
    other = parts.new_state()
    params, opt_state = other.params, other.opt_state

    def bare_once() -> float:
        nonlocal params, opt_state
        start = time.perf_counter()
        params, opt_state = jax.block_until_ready(bare(params, other.statistics, opt_state, views, direction))
        return time.perf_counter() - start

    def step_once() -> float:
        nonlocal state
        start = time.perf_counter()
        state, _ = jax.block_until_ready(parts.train_step(state, batch))
        return time.perf_counter() - start

    bare_once(), step_once()  # compile
    pairs = [(bare_once(), step_once()) for _ in range(arguments.repeats)]
    before = [bare_once() for _ in range(arguments.repeats)]
    loop = seconds_of_loop(config)
    around = before + [bare_once() for _ in range(arguments.repeats)]
    bares, steps = zip(*pairs, strict=True)
    measured = {
        "train step": (statistics.median(steps), statistics.median(bares)),
        "whole loop": (loop, statistics.median(around)),
    }
    print(HEADER, " seconds per step; ratio: bare / ours")
    found = [
        Comparison(f"overhead, {name}, {arguments.encoder}", seconds, floor, floor / seconds, 1 / 1.05, "wall")
        for name, (seconds, floor) in measured.items()
    ]
    for comparison in found:
        print(comparison, f" overhead {100 * (comparison.ours / comparison.peer - 1):.1f} %")
    facts = {"encoder": arguments.encoder, "size": arguments.size, "images": arguments.images, "views": config.views}
    return finish("overhead", found, unit="s", **facts)


if __name__ == "__main__":
    sys.exit(main())

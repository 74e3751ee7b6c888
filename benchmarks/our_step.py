"""Our compiled train step on a batch that stays, and PyTorch's from the same weights: for step_cpu.py and the GPU's."""

import dataclasses

import jax
import numpy as np

from xsample_jax.config import default_config, resolve
from xsample_jax.setup import PLACEHOLDER_SPEC, RunSetup
from xsample_jax.sharding import make_mesh, to_global


def step_config(encoder: str, images: int, size: int, **changes):
    """A resolved config of X-CLR with AdamW, whose views are the whole images of side `size`: nothing is random.

    `changes` are fields by dotted name, as in {"precision.compute": "bfloat16"}.
    """
    config = default_config()
    config.steps, config.batch_size, config.model.encoder = 1000, images, encoder
    config.augment.update(size=size, crop_scale=(), flip=0.0, jitter=0.0, gray=0.0)
    config.data.image_size = size
    config.optimizer.update(warmup=0.0, schedule="constant", learning_rate=1e-4, weight_decay=0.1)
    config.update_from_flattened_dict(changes)
    return resolve(config)


def stand_in_batch(images: int, size: int) -> dict[str, np.ndarray]:
    """Smooth random images (uint8 [images, size, size, 3]), ids, no labels, float16 captions."""
    rng = np.random.default_rng(0)
    # Captions that share a part, as those of real images do: the targets spread over the batch, the loss is about one.
    captions = rng.normal(size=PLACEHOLDER_SPEC.caption_dim) + 0.5 * rng.normal(
        size=(images, PLACEHOLDER_SPEC.caption_dim)
    )
    smooth = rng.integers(0, 256, (images, 8, 8, 3), dtype=np.uint8)
    return {
        "image": smooth.repeat(size // 8, axis=1).repeat(size // 8, axis=2),
        "id": np.arange(images, dtype=np.int32),
        "label": np.full(images, -1, np.int32),
        "caption_embedding": captions.astype(np.float16),
    }


class OurStep:
    """Callable that takes one step on one device and returns its metrics, arrays of that device."""

    def __init__(self, config, compiler_options: dict | None = None):
        self.parts = RunSetup(config, PLACEHOLDER_SPEC, make_mesh(config.mesh, config.batch_size, jax.devices()[:1]))
        self.host = stand_in_batch(config.batch_size, config.augment.size)
        self.batch = to_global({name: self.host[name] for name in self.parts.abstract_batch}, self.parts.mesh)
        state = self.parts.new_state()
        # Scales that start at zero would switch residual branches off, and a comparison would not see them.
        params = {k: v + 0.5 * (v == 0) if k.endswith("/scale") else v for k, v in state.params.items()}
        self.state = dataclasses.replace(state, params=params)
        lowered = self.parts.train_step.lower(self.parts.abstract_state, self.parts.abstract_batch)
        self.compiled = lowered.compile(compiler_options=compiler_options)

    def __call__(self) -> dict[str, jax.Array]:
        self.state, metrics = self.compiled(self.state, self.batch)
        return metrics

    def by_torch(self, device: str = "cpu", compiled: bool = False):
        """The same step by PyTorch (a `TorchStep`), from the weights that this one has now."""
        from benchmarks.torch_step import TorchStep

        state = self.state
        encoder = self.parts.model.merge(state.params, state.statistics, training=True).encoder
        arrays = {name: np.asarray(value) for name, value in {**state.params, **state.statistics}.items()}
        captions = self.host["caption_embedding"].astype(np.float32)
        return TorchStep(self.parts.config, encoder, arrays, self.host["image"], captions, device, compiled)

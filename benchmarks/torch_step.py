"""The peer of our train step: a plain PyTorch X-CLR step, as one writes it down, that starts from our weights.

Encoder from timm, SimCLR's projection head, dense loss, AdamW in its fused form with our exclusions from the decay.
"""

from collections.abc import Mapping

import jax
import numpy as np
import timm
import torch

from benchmarks import loss_forms
from xsample_jax.optim import EXCLUDED_NAMES
from xsample_jax.weights.export_safetensors import how_to_load
from xsample_jax.weights.families import FAMILIES
from xsample_jax.weights.name_map import to_theirs


class TorchStep:
    """Callable that takes one step on the given batch and returns the loss, a float.

    Args:
      config: of our run, without random augmentation: learning rate, decay, mean and deviation of the colours.
      encoder: our encoder (abstract will do). params, statistics: its arrays and those of our head by our names.
      images: uint8 [B, s, s, 3]; every view is the whole image. captions: float32 [B, E].
    """

    def __init__(self, config, encoder, params: Mapping[str, jax.Array], statistics: Mapping, images, captions):
        arrays = {name: np.asarray(value) for name, value in {**params, **statistics}.items()}
        self.model = torch.nn.Sequential(_encoder(config, encoder, arrays), _head(arrays))
        self.model.train().to(memory_format=torch.channels_last)
        decayed = {True: [], False: []}
        for name, parameter in self.model.named_parameters():
            decayed[parameter.ndim > 1 and not EXCLUDED_NAMES & {*name.split(".")} and parameter.requires_grad].append(
                parameter
            )
        o = config.optimizer
        groups = [
            {"params": decayed[True], "weight_decay": o.weight_decay},
            {"params": decayed[False], "weight_decay": 0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=o.learning_rate, betas=(o.b1, o.b2), fused=True)
        self.images, self.captions = torch.from_numpy(images), torch.from_numpy(captions)
        self.mean, self.std = torch.tensor(config.augment.mean), torch.tensor(config.augment.std)
        self.views = config.views

    def __call__(self) -> float:
        views = ((self.images.float() / 255 - self.mean) / self.std).repeat_interleave(self.views, dim=0)
        z = torch.nn.functional.normalize(self.model(views.permute(0, 3, 1, 2)), dim=1)
        loss = loss_forms.torch_eager(z, self.captions)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()


def _encoder(config, encoder, arrays: Mapping[str, np.ndarray]) -> torch.nn.Module:
    """timm's model of the same kind with our weights, by the call that our exports say."""
    own = {name.removeprefix("encoder/"): value for name, value in arrays.items() if name.startswith("encoder/")}
    family = FAMILIES["resnet" if config.model.encoder.startswith("resnet") else "timm_vit"]
    theirs = {name: torch.from_numpy(value.copy()) for name, value in to_theirs(family, encoder, own).items()}
    model = eval(how_to_load(config), {"timm": timm})
    counters = {name: value for name, value in model.state_dict().items() if name.endswith("num_batches_tracked")}
    model.load_state_dict(theirs | counters, strict=True)
    if "pos_embed" in theirs:
        model.pos_embed.requires_grad_(False)  # a fixed table with us
    return model


def _head(arrays: Mapping[str, np.ndarray]) -> torch.nn.Module:
    """The projection head: (linear, batch norm, ReLU) per hidden layer, then linear."""
    layers, number = [], 0
    while f"head/layers/{number}/kernel" in arrays:
        kernel = arrays[f"head/layers/{number}/kernel"]
        bias = arrays.get(f"head/layers/{number}/bias")
        layers.append(_linear(kernel, bias))
        if f"head/norms/{number}/scale" in arrays:
            norm = torch.nn.BatchNorm1d(kernel.shape[1])
            norm.weight.data, norm.bias.data = (
                torch.from_numpy(arrays[f"head/norms/{number}/{part}"].copy()) for part in ("scale", "bias")
            )
            layers.append(norm)
        layers.append(torch.nn.ReLU())
        number += 1
    return torch.nn.Sequential(*layers, _linear(arrays["head/out/kernel"], None))


def _linear(kernel: np.ndarray, bias: np.ndarray | None) -> torch.nn.Linear:
    layer = torch.nn.Linear(*kernel.shape, bias=bias is not None)
    layer.weight.data = torch.from_numpy(np.ascontiguousarray(kernel.T))
    if bias is not None:
        layer.bias.data = torch.from_numpy(bias.copy())
    return layer

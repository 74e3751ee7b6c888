"""The peer of our train step, on CPU and GPU: a plain PyTorch X-CLR step that starts from our weights.

Encoder from timm, SimCLR's projection head, dense loss, AdamW in its fused form with our exclusions from the decay;
channels last, autocast to bfloat16 where our config computes in it.
"""

from collections.abc import Mapping

import numpy as np
import timm
import torch

from benchmarks import loss_forms
from xsample_jax.export import family_of, how_to_load
from xsample_jax.optim import EXCLUDED_NAMES
from xsample_jax.weights.families import FAMILIES
from xsample_jax.weights.name_map import to_theirs


def tensor(x, device: str = "cpu") -> torch.Tensor:
    return torch.from_numpy(np.array(x)).to(device)


class TorchStep:
    """Callable that takes one step on the given batch and returns the loss, a tensor.

    Args:
      config: of our run, without random augmentation: optimizer, precision, mean and deviation of the colors.
      encoder: our encoder (abstract will do).
      arrays: our parameters and running statistics of encoder and head, by our names.
      images: uint8 [B, s, s, 3]; every view is the whole image. captions: float32 [B, E].
      device: "cpu" or "cuda".
      compiled: forward pass and loss by torch.compile.
    """

    def __init__(
        self,
        config,
        encoder,
        arrays: Mapping[str, np.ndarray],
        images: np.ndarray,
        captions: np.ndarray,
        device: str = "cpu",
        compiled: bool = False,
    ):
        self._config, self._device = config, device
        self.model = torch.nn.Sequential(_encoder(config, encoder, arrays), _head(arrays)).to(device)
        self.model.train().to(memory_format=torch.channels_last)
        self._optimizer = _optimizer(config.optimizer, self.model)
        self._images, self._captions = tensor(images, device), tensor(captions, device)
        self._mean, self._std = (tensor(np.float32(x), device) for x in (config.augment.mean, config.augment.std))
        self._loss = torch.compile(self._loss_of_batch) if compiled else self._loss_of_batch

    def __call__(self) -> torch.Tensor:
        self._optimizer.zero_grad()
        loss = self._loss()
        loss.backward()
        self._optimizer.step()
        return loss.detach()

    def _loss_of_batch(self) -> torch.Tensor:
        views = ((self._images.float() / 255 - self._mean) / self._std).repeat_interleave(self._config.views, dim=0)
        with torch.autocast(self._device, torch.bfloat16, enabled=self._config.precision.compute == "bfloat16"):
            z = self.model(views.permute(0, 3, 1, 2))
        return loss_forms.torch_eager(torch.nn.functional.normalize(z.float(), dim=1), self._captions)


def _optimizer(options, model: torch.nn.Module) -> torch.optim.Optimizer:
    def decays(name, parameter):
        return parameter.ndim > 1 and not EXCLUDED_NAMES & {*name.split(".")}

    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for name, p in trained if decays(name, p) == wanted], "weight_decay": decay}
        for wanted, decay in ((True, options.weight_decay), (False, 0.0))
    ]
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=(options.b1, options.b2), fused=True)


def _encoder(config, encoder, arrays: Mapping[str, np.ndarray]) -> torch.nn.Module:
    """timm's model of the same kind with our weights, by the call that our exports say."""
    own = {name.removeprefix("encoder/"): value for name, value in arrays.items() if name.startswith("encoder/")}
    theirs = {name: tensor(value) for name, value in to_theirs(FAMILIES[family_of(config)], encoder, own).items()}
    model = eval(how_to_load(config), {"timm": timm})
    counters = {name: value for name, value in model.state_dict().items() if name.endswith("num_batches_tracked")}
    model.load_state_dict(theirs | counters, strict=True)
    if "pos_embed" in theirs:
        model.pos_embed.requires_grad_(False)  # a fixed table with us
    return model


def _head(arrays: Mapping[str, np.ndarray]) -> torch.nn.Module:
    """Our projection head: (linear, batch norm, ReLU) per hidden layer, then linear without bias."""
    layers, hidden = [], sum(name.startswith("head/layers/") and name.endswith("/kernel") for name in arrays)
    for number in range(hidden):
        kernel = arrays[f"head/layers/{number}/kernel"]
        layers.append(_linear(kernel, arrays.get(f"head/layers/{number}/bias")))
        if f"head/norms/{number}/scale" in arrays:
            norm = torch.nn.BatchNorm1d(kernel.shape[1])
            norm.weight.data, norm.bias.data = (tensor(arrays[f"head/norms/{number}/{x}"]) for x in ("scale", "bias"))
            layers.append(norm)
        layers.append(torch.nn.ReLU())
    return torch.nn.Sequential(*layers, _linear(arrays["head/out/kernel"], None))


def _linear(kernel: np.ndarray, bias: np.ndarray | None) -> torch.nn.Linear:
    layer = torch.nn.Linear(*kernel.shape, bias=bias is not None)
    layer.weight.data = tensor(kernel).T.contiguous()
    if bias is not None:
        layer.bias.data = tensor(bias)
    return layer

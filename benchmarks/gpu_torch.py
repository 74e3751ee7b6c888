"""The peers on the same card, in PyTorch: the X-CLR train step as torch.compile makes it fast, and the loss alone.

Everything is made from our arrays, so that values can be compared before anything is timed.
"""

import functools
from collections.abc import Mapping

import numpy as np
import timm
import torch
import torch.utils.checkpoint

from benchmarks import loss_forms
from xsample_jax.optim import EXCLUDED_NAMES
from xsample_jax.weights.export_safetensors import family_of, how_to_load
from xsample_jax.weights.families import FAMILIES
from xsample_jax.weights.name_map import to_theirs

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def tensor(x) -> torch.Tensor:
    return torch.from_numpy(np.array(x)).to(DEVICE)


def wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def peak_bytes(function) -> int | None:
    """Bytes that a call has allocated at most; None without a card."""
    if DEVICE != "cuda":
        return None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    function()
    return torch.cuda.max_memory_allocated()


def train_step(config, encoder, arrays: Mapping[str, np.ndarray], images, captions, compiled: bool):
    """Function that takes one step and returns the loss, a tensor; and the model.

    Channels last, the optimiser fused; autocast to bfloat16 where our config computes in it. `arrays`: our parameters
    and statistics by name; images uint8 [B, s, s, 3], every view being the whole image; captions float32 [B, E].
    """
    own = {name.removeprefix("encoder/"): value for name, value in arrays.items() if name.startswith("encoder/")}
    theirs = {name: tensor(value) for name, value in to_theirs(FAMILIES[family_of(config)], encoder, own).items()}
    trunk = eval(how_to_load(config), {"timm": timm}).to(DEVICE)
    counters = {name: value for name, value in trunk.state_dict().items() if name.endswith("num_batches_tracked")}
    trunk.load_state_dict(theirs | counters, strict=True)
    if "pos_embed" in theirs:
        trunk.pos_embed.requires_grad_(False)  # a fixed table with us
    model = torch.nn.Sequential(trunk, _head(arrays)).to(DEVICE).to(memory_format=torch.channels_last).train()

    def decays(name, parameter):
        return parameter.ndim > 1 and not EXCLUDED_NAMES & {*name.split(".")}

    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    o = config.optimizer
    groups = [
        {"params": [p for name, p in trained if decays(name, p) == wanted], "weight_decay": decay}
        for wanted, decay in ((True, o.weight_decay), (False, 0.0))
    ]
    optimizer = torch.optim.AdamW(groups, lr=o.learning_rate, betas=(o.b1, o.b2), fused=True)
    images, captions = tensor(images), tensor(captions)
    mean, std = tensor(np.float32(config.augment.mean)), tensor(np.float32(config.augment.std))
    narrow = config.precision.compute == "bfloat16"

    def loss_of():
        views = ((images.float() / 255 - mean) / std).repeat_interleave(config.views, dim=0).permute(0, 3, 1, 2)
        with torch.autocast(DEVICE, torch.bfloat16, enabled=narrow):
            z = model(views)
        return loss_forms.torch_eager(torch.nn.functional.normalize(z.float(), dim=1), captions)

    loss_of = torch.compile(loss_of) if compiled else loss_of

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step, model


def _head(arrays: Mapping[str, np.ndarray]) -> torch.nn.Module:
    """Our projection head: (linear, batch norm, ReLU) per hidden layer, then linear without bias."""
    layers, hidden = [], sorted(name for name in arrays if name.startswith("head/layers/") and name.endswith("kernel"))
    for number, name in enumerate(hidden):
        layers.append(_linear(arrays[name], arrays.get(f"head/layers/{number}/bias")))
        if f"head/norms/{number}/scale" in arrays:
            norm = torch.nn.BatchNorm1d(arrays[name].shape[1])
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


def with_gradient(loss, z, *others):
    """Function that returns (loss, gradient of z), tensors."""
    z, others = tensor(z), [tensor(x) for x in others]

    def run():
        rows = z.detach().requires_grad_()
        value = loss(rows, *others)
        value.backward()
        return value.detach(), rows.grad

    return run


def checkpointed_chunks(z, captions, chunk: int = 4096):
    """The X-CLR loss in blocks of rows whose logits are made again in the backward pass."""
    views, tau = loss_forms.VIEWS, loss_forms.TAU
    u = torch.nn.functional.normalize(captions, dim=1)
    u = u.repeat_interleave(views, dim=0)

    def block(z, first):
        rows = torch.arange(first, min(first + chunk, len(z)), device=z.device)
        itself = rows[:, None] == torch.arange(len(z), device=z.device)
        target = torch.softmax((u[rows] @ u.T / tau).masked_fill(itself, -torch.inf), dim=1)
        log_p = torch.log_softmax((z[rows] @ z.T / tau).masked_fill(itself, -torch.inf), dim=1)
        return -(target * log_p.masked_fill(itself, 0)).sum()

    run = functools.partial(torch.utils.checkpoint.checkpoint, block, use_reentrant=False)
    return sum(run(z, first) for first in range(0, len(z), chunk)) / len(z)


def inf_cl(z, y):
    """InfoNCE of z to y by the kernels of the inf-cl package."""
    from inf_cl import cal_flash_loss

    return cal_flash_loss(z, y, scale=1 / loss_forms.TAU, head_dim=z.shape[1]).mean()

"""The peers of our loss on the same card, in PyTorch, from our arrays; and what timing torch there needs."""

import functools

import torch
import torch.utils.checkpoint

from benchmarks import loss_forms
from benchmarks.torch_step import tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


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


def with_gradient(loss, z, *others):
    """Function that returns (loss, gradient of z), tensors."""
    z, others = tensor(z, DEVICE), [tensor(x, DEVICE) for x in others]

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

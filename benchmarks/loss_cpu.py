"""CPU time of the X-CLR loss and its gradient: tiles against full matrices in jax, and in torch where it is installed.

    python -m benchmarks.loss_cpu [--rows 2048 4096] [--repeats 5] [--compile]

CPU-seconds of all threads, not wall time, so that other work on the machine matters little; the least of interleaved
repeats. Equality of value and gradient is asserted before anything is timed. At 16384 rows the peers need 5 GiB.
--compile adds torch.compile, which needs a C++ compiler. The floor is what the streamed loss multiplies (4 D + 2 E / 4
FLOPs per ordered pair of rows), at the speed of one large product.
"""

import argparse
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import loss_forms
from benchmarks.gemm import seconds_per_flop
from benchmarks.report import HEADER, faster, finish, lacking
from benchmarks.timing import interleaved

# How many times fewer CPU-seconds than each peer: below 4096 rows (where the framework takes the dense loss), there,
# and above.
TARGETS = {
    "naive dense jax": (1.5, 2.0, 3.0),
    "smart dense jax": (1.0, 1.5, 2.2),
    "torch eager": (2.0, 3.0, 4.0),
    "torch.compile": (1.5, 2.0, 3.0),
}
FLOPS_PER_PAIR = 4 * 128 + 2 * 768 / 4


def jax_form(form, z, captions):
    z, captions = jnp.asarray(z), jnp.asarray(captions)
    compiled = jax.jit(jax.value_and_grad(form)).lower(z, captions).compile()
    return lambda: jax.block_until_ready(compiled(z, captions))


def torch_form(z, captions, compiled: bool = False):
    import torch

    captions = torch.from_numpy(captions)
    form = torch.compile(loss_forms.torch_eager) if compiled else loss_forms.torch_eager

    def run():
        rows = torch.from_numpy(z).requires_grad_()
        loss = form(rows, captions)
        loss.backward()
        return loss.item(), rows.grad.numpy()

    return run


def check_equal(name, got, expected):
    np.testing.assert_allclose(got[0], expected[0], rtol=2e-6, err_msg=name)
    error = np.linalg.norm(np.asarray(got[1]) - expected[1]) / np.linalg.norm(expected[1])
    assert error <= 1e-5, f"{name}: relative error of the gradient {error:.1e}"


def forms_of(rows: int, has_torch: bool, compiled: bool) -> dict:
    """{who: function that returns (loss, gradient)}, all found equal."""
    z, captions = loss_forms.inputs(rows)
    forms = {
        "ours": jax_form(loss_forms.streaming, z, captions),
        "naive dense jax": jax_form(loss_forms.naive, z, captions),
        "smart dense jax": jax_form(loss_forms.one_target_per_image, z, captions),
    }
    if has_torch:
        forms["torch eager"] = torch_form(z, captions)
    if has_torch and compiled:
        forms["torch.compile"] = torch_form(z, captions, compiled=True)
    expected = jax.device_get(forms["naive dense jax"]())
    for name, form in forms.items():
        check_equal(f"{name}, {rows} rows", form(), expected)
    return forms


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[2048, 4096])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="torch.compile as a peer at the largest size")
    given = parser.parse_args()
    missing = lacking("torch")
    if given.compile and shutil.which("g++") is None:
        print("torch.compile is left out: it needs g++")
        given.compile = False
    print(HEADER, " CPU-seconds, forward and backward")
    found, seconds = [], {}
    for rows in given.rows:
        forms = forms_of(rows, not missing, given.compile and rows == max(given.rows))
        times = interleaved(forms, given.repeats)
        for name, one in times.items():
            seconds.setdefault(name, {})[rows] = one.cpu
        for name in list(forms)[1:]:
            target = TARGETS[name][0 if rows < 4096 else 1 if rows == 4096 else 2]
            found.append(faster(f"loss_cpu {rows} rows, {name}", times["ours"], times[name], target))
            print(found[-1], flush=True)
    floor = {rows: FLOPS_PER_PAIR * rows**2 * seconds_per_flop().cpu for rows in given.rows}
    facts = {"cpu_seconds": seconds, "floor": floor, "repeats": given.repeats}
    return finish("loss_cpu", found, missing, unit="CPU-seconds", **facts)


if __name__ == "__main__":
    sys.exit(main())

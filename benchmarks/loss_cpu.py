"""CPU time of the X-CLR loss and its gradient: tiles against full matrices in jax, and in torch where it is installed.

    python -m benchmarks.loss_cpu [--rows 4096 8192 16384] [--repeats 5]

CPU-seconds of all threads, not wall time, so that other work on the machine matters little; the least of interleaved
repeats. Equality of value and gradient is asserted before anything is timed. At 16384 rows the peers need 5 GiB.
"""

import argparse
import importlib.util
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import loss_forms
from benchmarks.report import HEADER, finish, less_is_better

# How many times fewer CPU-seconds than each peer, for 4096 rows and for more.
TARGETS = {"naive dense jax": (2.0, 3.0), "smart dense jax": (1.5, 2.2), "torch eager": (3.0, 4.0)}
LOOSE = 0.7  # below this share of a target the exit status is 1


def jax_form(form, z, captions):
    z, captions = jnp.asarray(z), jnp.asarray(captions)
    compiled = jax.jit(jax.value_and_grad(form)).lower(z, captions).compile()
    return lambda: jax.block_until_ready(compiled(z, captions))


def torch_form(z, captions):
    import torch

    captions = torch.from_numpy(captions)

    def run():
        rows = torch.from_numpy(z).requires_grad_()
        loss = loss_forms.torch_eager(rows, captions)
        loss.backward()
        return loss.item(), rows.grad.numpy()

    return run


def check_equal(name, got, expected):
    np.testing.assert_allclose(got[0], expected[0], rtol=2e-6, err_msg=name)
    error = np.linalg.norm(np.asarray(got[1]) - expected[1]) / np.linalg.norm(expected[1])
    assert error <= 1e-5, f"{name}: relative error of the gradient {error:.1e}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[4096, 8192, 16384])
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    has_torch = importlib.util.find_spec("torch") is not None
    print(HEADER, " CPU-seconds, forward and backward", "" if has_torch else "(torch is not installed: left out)")
    found = []
    for rows in arguments.rows:
        z, captions = loss_forms.inputs(rows)
        forms = {
            "ours": jax_form(loss_forms.streaming, z, captions),
            "naive dense jax": jax_form(loss_forms.naive, z, captions),
            "smart dense jax": jax_form(loss_forms.one_target_per_image, z, captions),
        }
        if has_torch:
            forms["torch eager"] = torch_form(z, captions)
        expected = jax.device_get(forms["naive dense jax"]())
        for name, form in forms.items():
            check_equal(f"{name}, {rows} rows", form(), expected)
        least = dict.fromkeys(forms, float("inf"))
        for _ in range(arguments.repeats):
            for name, form in forms.items():
                start = time.process_time()
                form()
                least[name] = min(least[name], time.process_time() - start)
        for name in list(forms)[1:]:
            target = TARGETS[name][rows > 4096]
            found.append(less_is_better(f"loss_cpu {rows} rows, {name}", least["ours"], least[name], target))
            print(found[-1], flush=True)
    finish("loss_cpu", found, unit="CPU-seconds", repeats=arguments.repeats)
    return 0 if all(comparison.gain >= LOOSE * comparison.target for comparison in found) else 1


if __name__ == "__main__":
    sys.exit(main())

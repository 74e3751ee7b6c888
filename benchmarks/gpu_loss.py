"""The loss and its gradient alone on one GPU, 32k to 1M rows: milliseconds, GiB and TFLOP/s, against five peers.

    python -m benchmarks.gpu_loss [--rows 32768 65536 262144 1048576] [--tiny]

X-CLR (two views, D = 128, captions E = 768): XLA's dense form, torch's dense form, torch with checkpointed blocks of
rows. InfoNCE (two towers, D = 128): the kernels of the inf-cl package. Values and gradients are compared first; what a
form needs in memory decides where it is left out. --tiny: sizes for a CPU, where inf-cl cannot run.
"""

import argparse
import functools
import importlib.util
import sys

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import loss_forms
from benchmarks.gpu_timing import seconds_in_turn
from benchmarks.report import HEADER, at_most, finish, less_is_better
from xsample_jax.graphs.sources import SOURCES
from xsample_jax.objectives.streaming.loss import Streaming, Target, streaming_rows
from xsample_jax.objectives.streaming.tiles import Rows

GIB = 2**30
# Most rows at which a form is tried: dense forms keep about six N x N float32 arrays, the blocks six of 4096 x N;
# Inf-CL and the blocks take too long for more.
LARGEST = {"dense jax": 32768, "torch dense": 32768, "torch blocks": 65536, "inf-cl": 262144, "ours": 2**20}
TARGETS = {"dense jax": 3.0, "torch dense": 3.0, "torch blocks": 3.0, "inf-cl": 5.0}  # times faster
MS_OF_64K = 60.0
ALIKE = 1e-2  # relative difference of gradients; cards multiply float32 in fewer bits in places


def info_nce(z, y, **options):
    """InfoNCE of rows z to rows y of the same number, by our tiles."""
    ids = {"id": jnp.arange(len(z), dtype=jnp.int32)}
    target, how = Target(SOURCES["identity"], "row_sum"), Streaming(**options)
    return streaming_rows(Rows(z, ids, 1), Rows(y, ids, 1), target, loss_forms.TAU, how)["loss"].mean()


def compiled(form, *arrays):
    """(function, wait, GiB of scratch) of a jax form with the gradient of its first argument."""
    program = jax.jit(jax.value_and_grad(form)).lower(*arrays).compile()
    arrays = jax.device_put(arrays)
    scratch = program.memory_analysis().temp_size_in_bytes / GIB
    return (lambda: program(*arrays)), jax.block_until_ready, scratch


def of_torch(form, *arrays):
    from benchmarks import gpu_torch

    run = gpu_torch.with_gradient(form, *arrays)
    peak = gpu_torch.peak_bytes(run)
    return run, (lambda _: gpu_torch.wait()), peak and peak / GIB


def host(value) -> np.ndarray:
    return np.asarray(value.cpu() if hasattr(value, "cpu") else value)


def check_equal(name: str, got, expected) -> None:
    np.testing.assert_allclose(host(got[0]), host(expected[0]), rtol=1e-3, err_msg=name)
    ours, theirs = host(expected[1]), host(got[1])
    error = np.linalg.norm(theirs - ours) / np.linalg.norm(ours)
    assert error <= ALIKE, f"{name}: relative difference of the gradient {error:.1e}"


def forms_of(rows: int, tile: int, has_torch: bool, has_inf_cl: bool) -> dict[str, dict]:
    """{"xclr" or "infonce": {name: (function, wait, GiB)}} of the forms that can be tried at this size."""
    z, captions = loss_forms.inputs(rows)
    y = np.roll(z, 1, axis=0)
    ours = {
        "xclr": {"ours": compiled(functools.partial(loss_forms.streaming, block_size=tile), z, captions)},
        "infonce": {"ours": compiled(functools.partial(info_nce, block_size=tile), z, y)},
    }
    if rows <= LARGEST["dense jax"]:
        ours["xclr"]["dense jax"] = compiled(loss_forms.naive, z, captions)
    if has_torch:
        from benchmarks import gpu_torch

        if rows <= LARGEST["torch dense"]:
            ours["xclr"]["torch dense"] = of_torch(loss_forms.torch_eager, z, captions)
        if rows <= LARGEST["torch blocks"]:
            ours["xclr"]["torch blocks"] = of_torch(gpu_torch.checkpointed_chunks, z, captions)
        if has_inf_cl and rows <= LARGEST["inf-cl"]:
            ours["infonce"]["inf-cl"] = of_torch(gpu_torch.inf_cl, z, y)
    return ours


def tflop(kind: str, rows: int) -> float:
    """Of the products that tiles of this loss do, forward and backward, in one precision."""
    per_pair = (4 * 128 + 2 * 768 / 4) if kind == "xclr" else 8 * 128
    return per_pair * rows**2 / 1e12


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+")
    parser.add_argument("--tile", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="sizes for a CPU")
    given = parser.parse_args()
    sizes = given.rows or ([256, 512] if given.tiny else [32768, 65536, 262144, 2**20])
    tile = 128 if given.tiny else given.tile
    has_torch = importlib.util.find_spec("torch") is not None
    on_gpu = jax.default_backend() == "gpu"
    has_inf_cl = has_torch and on_gpu and importlib.util.find_spec("inf_cl") is not None
    if not has_inf_cl:
        print("inf-cl is left out: it needs a CUDA device, torch, triton and the package")
    found, rows_of_table = [], []
    print(HEADER, " seconds, forward and backward")
    for rows in sizes:
        for kind, forms in forms_of(rows, tile, has_torch, has_inf_cl).items():
            if kind == "infonce" and rows > LARGEST["inf-cl"]:
                continue
            expected = forms["ours"][0]()
            for name in [name for name in forms if name != "ours"]:
                check_equal(f"{kind}, {rows} rows, {name}", forms[name][0](), expected)
            once = rows > 2**18  # takes seconds
            seconds = seconds_in_turn({n: form[:2] for n, form in forms.items()}, 1 if once else given.repeats)
            for name, took in seconds.items():
                gib = forms[name][2]
                rows_of_table.append(
                    {
                        "loss": kind,
                        "rows": rows,
                        "form": name,
                        "ms": 1e3 * took,
                        "gib": gib,
                        "tflops": tflop(kind, rows) / took,
                    }
                )
                print(
                    f"  {kind} {rows} rows, {name}: {1e3 * took:.1f} ms, {gib and round(gib, 3)} GiB, "
                    f"{tflop(kind, rows) / took:.2f} TFLOP/s (by our products)",
                    flush=True,
                )
                if name != "ours":
                    found.append(
                        less_is_better(f"gpu_loss {kind} {rows} rows, {name}", seconds["ours"], took, TARGETS[name])
                    )
                    print(found[-1], flush=True)
            if kind == "xclr" and rows == 65536:
                found.append(at_most("gpu_loss xclr 65536 rows, ms", 1e3 * seconds["ours"], MS_OF_64K))
                print(found[-1], flush=True)
    finish("gpu_loss", found, unit="s", tiny=given.tiny, tile=tile, table=rows_of_table, repeats=given.repeats)
    return 0


if __name__ == "__main__":
    sys.exit(main())

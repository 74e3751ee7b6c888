"""Bytes that a device receives for the X-CLR loss and its gradient, from programs compiled for 8 virtual CPU devices.

    python -m benchmarks.comm_bytes [--rows 4096] [--devices 8]

The peers: the loss as open_clip distributes its own (features gathered with gradient, local rows against all), with
captions gathered per row or once per image; and the dense loss with collectives placed by the compiler.
"""

import argparse
import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from benchmarks import loss_forms
from benchmarks.report import HEADER, finish, less_is_better
from xsample_jax.reports.dry_run import collectives

MIB = 2**20


def open_clip_like(z, captions, *, mesh, per_row: bool):
    """Rows of this device against all rows; the derivative of the gather of z is a reduce-scatter."""
    views, tau = loss_forms.VIEWS, loss_forms.TAU

    def local(z, captions):
        u = captions / jnp.linalg.norm(captions, axis=1, keepdims=True)
        if per_row:
            u = jnp.repeat(u, views, axis=0)
        all_z, all_u = (jax.lax.all_gather(x, "data", tiled=True) for x in (z, u))
        if not per_row:
            u, all_u = (jnp.repeat(x, views, axis=0) for x in (u, all_u))
        numbers = jax.lax.axis_index("data") * len(z) + jnp.arange(len(z))
        other = numbers[:, None] != jnp.arange(len(all_z))[None, :]
        target = jax.nn.softmax(jnp.where(other, u @ all_u.T / tau, -jnp.inf), axis=1)
        log_p = jax.nn.log_softmax(jnp.where(other, z @ all_z.T / tau, -jnp.inf), axis=1)
        return -jnp.where(other, target * log_p, 0).sum(axis=1)

    split = PartitionSpec("data")
    return jax.shard_map(local, mesh=mesh, in_specs=(split, split), out_specs=split)(z, captions).mean()


def received(form, mesh, rows: int) -> float:
    """MiB that every device receives."""
    sharding, n = NamedSharding(mesh, PartitionSpec("data")), mesh.size
    arguments = loss_forms.shapes(rows, sharding=sharding)
    program = jax.jit(jax.value_and_grad(form), out_shardings=(None, sharding)).lower(*arguments).compile()
    # Of the bytes of a result: what is not the device's own; a ring reduces in as many steps as it gathers.
    share = {"all-gather": (n - 1) / n, "reduce-scatter": n - 1, "all-reduce": 2 * (n - 1) / n}
    found = collectives(program.as_text())
    for c in found:
        print(f"    {c.op} {c.dtype}: {c.count} with {c.bytes / MIB:.3f} MiB")
    return sum(c.bytes * share[c.op] for c in found) / MIB


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--devices", type=int, default=8)
    arguments = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", arguments.devices)
    mesh = Mesh(np.array(jax.devices()), ("data",), axis_types=(AxisType.Auto,))

    ours = {
        "f32 z, f16 captions": (functools.partial(loss_forms.streaming, mesh=mesh), (2.8, 1.7, 2.8)),
        "bf16 z, f16 captions": (
            functools.partial(loss_forms.streaming, mesh=mesh, comm_dtype="bfloat16"),
            (3.4, 2.2, 3.4),
        ),
        "f32 z, int8 captions": (
            functools.partial(loss_forms.streaming, mesh=mesh, caption_comm_dtype="int8"),
            (3.4, 1.9, 3.4),
        ),
        "bf16 z, int8 captions": (
            functools.partial(loss_forms.streaming, mesh=mesh, comm_dtype="bfloat16", caption_comm_dtype="int8"),
            (5.0, 2.5, 5.0),
        ),
    }
    peers = {
        "open_clip-like, captions per row": functools.partial(open_clip_like, mesh=mesh, per_row=True),
        "open_clip-like, captions per image": functools.partial(open_clip_like, mesh=mesh, per_row=False),
        "dense, compiler's collectives": loss_forms.naive,
    }
    bytes_of = {}
    for name, form in [(name, form) for name, (form, _) in ours.items()] + list(peers.items()):
        print(name)
        bytes_of[name] = received(form, mesh, arguments.rows)
    print(HEADER, f" MiB received per device, {arguments.rows} rows, {arguments.devices} devices")
    found = [
        less_is_better(f"{name} / {peer}", bytes_of[name], bytes_of[peer], target)
        for name, (_, targets) in ours.items()
        for peer, target in zip(peers, targets)
    ]
    for comparison in found:
        print(comparison)
    # At the least: every other row in bfloat16, a caption per image in bytes, 8 bytes per row for the backward pass.
    others = arguments.rows * (1 - 1 / arguments.devices)
    limit = others * (2 * 128 + 768 / loss_forms.VIEWS + 8) / MIB
    facts = {
        "rows": arguments.rows,
        "devices": arguments.devices,
        "received": bytes_of,
        "ours": [*ours],
        "limit": limit,
    }
    return finish("comm_bytes", found, unit="MiB", **facts)


if __name__ == "__main__":
    sys.exit(main())

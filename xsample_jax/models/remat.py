"""What a block keeps for the backward pass (rematerialisation, Chen et al., arXiv 1604.06174).

The backward pass needs the values inside every block. `none` keeps them all. `block` keeps only what goes into the
block and runs it again: the least memory, about a third more work. `dots` keeps the results of convolutions and of
products with parameters and runs the rest again (norms, activations, attention weights): less saved, hardly more work.
Losses and gradients are the same up to rounding, and running statistics move once, in the first pass.
"""

import functools
from collections.abc import Callable

import jax
from flax import nnx

from xsample_jax.errors import lookup

_PRODUCTS = jax.checkpoint_policies.dots_with_no_batch_dims_saveable


def _keep_products(primitive, *avals, **params) -> bool:
    return primitive is jax.lax.conv_general_dilated_p or _PRODUCTS(primitive, *avals, **params)


POLICIES = {"none": None, "block": jax.checkpoint_policies.nothing_saveable, "dots": _keep_products}


@functools.cache  # one function per policy: two models of one config then have one structure
def block_runner(remat: str) -> Callable:
    """Returns run(block, x, ...) = block(x, ...), which keeps what the policy `remat` ("none", "block", "dots") says.

    Raises ConfigError for an unknown policy.
    """
    policy = lookup(POLICIES, remat, "model.remat")

    def run(block: nnx.Module, *args):
        return block(*args)

    return run if policy is None else nnx.remat(run, policy=policy)


def compiler_options(remat: str, platform: str) -> dict[str, str] | None:
    """What the compiler must be told for a step with this policy to need less memory; None: nothing.

    Barriers keep the second run of a block behind the backward pass of the blocks after it. XLA for CPU takes them out
    before it orders the program (TPU and GPU do not), and would then run all blocks again at once.
    """
    return {"xla_disable_hlo_passes": "cse_barrier_expander"} if platform == "cpu" and remat != "none" else None

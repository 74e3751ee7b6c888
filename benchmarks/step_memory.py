"""Memory per device of the whole train step by knob, as compiled (nothing is run): what each saves, in what it costs.

    python -m benchmarks.step_memory [--encoder resnet18] [--batch_size 32] [--size 64] [--knobs ...]
    python -m benchmarks.step_memory --encoder resnet50 vit_s --batch_size 64 --size 224 --knobs all
    python -m benchmarks.step_memory --topology v5e:2x2     by the TPU compiler (extra tpu), which takes longer

XLA for CPU computes bfloat16 in float32 and needs room for both, so knobs of precision.compute are for TPUs only.
"""

import argparse
import os
import sys

from benchmarks.report import HEADER, finish, less_is_better
from xsample_jax.topology import quiet_environment, topology_devices

KNOBS = {
    "none": {},
    "remat dots": {"model.remat": "dots"},
    "remat block": {"model.remat": "block"},
    "GradCache, 4 parts": {"loss.grad_cache": 4},
    "GradCache, 16 parts": {"loss.grad_cache": 16},
    "compute bfloat16": {"precision.compute": "bfloat16"},
    "compute bfloat16, remat block": {"precision.compute": "bfloat16", "model.remat": "block"},
    "moments bfloat16": {"precision.moments": "bfloat16"},
    "params and moments bfloat16": {"precision.params": "bfloat16", "precision.moments": "bfloat16"},
    "EMA": {"optimizer.ema": 0.9999},
    "fsdp over all devices": {"mesh.fsdp": -1},
}

# What is compared with the step as it is: which of (state, temporaries), and how many times less it must be. These are
# limits against relapses, a little below what jax 0.10.2 compiles; arithmetic sets no floor for temporaries.
TARGETS = {
    "remat block": ("temporaries", 1.2),
    "GradCache, 4 parts": ("temporaries", 1.8),
    "moments bfloat16": ("state", 1.15),
    "fsdp over all devices": ("state", 6.0),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", nargs="+", default=["resnet18"])
    parser.add_argument("--batch_size", type=int, default=32, help="images per device, two views each")
    parser.add_argument("--size", type=int, default=64, help="side of the views in pixels")
    parser.add_argument("--topology", help="TPU slice to compile for; its chips share the batch")
    parser.add_argument("--knobs", nargs="+", default=["none", *TARGETS], choices=["all", *KNOBS])
    options = parser.parse_args()
    knobs = list(KNOBS) if "all" in options.knobs else options.knobs
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    quiet_environment(os.environ)
    found = []
    for encoder in options.encoder:
        print(f"\n{encoder}, {options.size} px, {options.batch_size} images a device, two views, AdamW\n")
        print("| knob | state, MiB | temporaries, MiB | work |\n|---|---:|---:|---:|", flush=True)
        plain = None
        for knob in knobs:
            if KNOBS[knob].get("precision.compute") and not options.topology:
                continue
            state, temporaries, flops = measure(encoder, options, KNOBS[knob])
            plain = plain or (state, temporaries, flops)
            work = f"{flops / plain[2]:.2f}" if flops else "a forward pass more"
            print(f"| {knob} | {state / 2**20:,.0f} | {temporaries / 2**20:,.0f} | {work} |", flush=True)
            if knob in TARGETS and knobs[0] == "none":
                what, target = TARGETS[knob]
                place = ("state", "temporaries").index(what)
                mib = ((state, temporaries)[place] / 2**20, plain[place] / 2**20)
                found.append(less_is_better(f"step_memory {encoder}, {knob}, {what}", *mib, target))
    print(HEADER, " MiB of a device, with and without")
    for comparison in found:
        print(comparison)
    return finish("step_memory", found, unit="MiB", size=options.size, images=options.batch_size)


def measure(encoder: str, options, knob: dict) -> tuple[int, int, float | None]:
    """Bytes of the state and of temporaries on one device, and FLOPs; those of GradCache's loop cannot be read."""
    import jax

    from xsample_jax.config import default_config, resolve
    from xsample_jax.reports.dry_run import compiled_report
    from xsample_jax.setup import PLACEHOLDER_SPEC, RunSetup
    from xsample_jax.sharding import make_mesh

    if options.topology:
        devices, effort = topology_devices(options.topology), {"exec_time_optimization_effort": -1.0}
    else:
        devices, effort = jax.devices() if "mesh.fsdp" in knob else jax.devices()[:1], None
    config = default_config()
    config.steps, config.batch_size = 100, options.batch_size * len(devices)
    config.augment.size = config.data.image_size = options.size
    config.model.encoder, config.model.conv_impl = encoder, "conv"  # as on an accelerator
    config.model.head.batch_norm = not encoder.startswith("vit")
    for name, value in knob.items():
        section, key = name.split(".")
        config[section][key] = len(devices) if name == "mesh.fsdp" else value
    config = resolve(config)
    parts = RunSetup(config, PLACEHOLDER_SPEC, make_mesh(config.mesh, config.batch_size, devices))
    compiled = parts.train_step.lower(parts.abstract_state, parts.abstract_batch).compile(compiler_options=effort)
    report = compiled_report(compiled)
    return report.aliased, report.temporaries, report.flops if config.loss.grad_cache == 1 else None


if __name__ == "__main__":
    sys.exit(main())
